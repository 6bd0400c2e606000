"""Tables 3 to 5, and an ablation of anything: what masks are, with all else the same; ours beside the paper's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.evaluation.leaderboard import reported as paper
from sparsepo_dist.evaluation.tables import Column
from sparsepo_dist.experiments.contracts import TrainedRun
from sparsepo_dist.experiments.drawing.benchmarks import LEADERBOARD, leaderboard_rows, reported
from sparsepo_dist.experiments.drawing.numbers.grouping import Variant, beta, seed, variants
from sparsepo_dist.experiments.drawing.numbers.intervals import LEGEND
from sparsepo_dist.experiments.drawing.numbers.reading import Collected, Point
from sparsepo_dist.experiments.drawing.parts import RUNS, Section, Table
from sparsepo_dist.experiments.drawing.summary import columns, difference, measured

Masks = Mapping[str, Any]
"""`masks` of a run's configuration."""
_LEARNED = ("auto", "learned")


class Ablation(NamedTuple):
    """A table of the appendix."""

    name: str
    title: str
    first: str
    """The label that others are held against."""
    label: Callable[[Masks], str | None]
    """What a run is called there; None where it is none of the table's."""
    figures: Mapping[str, paper.Figures]
    varied: tuple[str, ...]
    """Fields of masks that tell its rows apart."""


def _architecture(masks: Masks) -> str | None:
    if masks.get("kind") not in _LEARNED or masks.get("binary") != "none":
        return None
    linears = masks["linears"]
    return f"{masks['layers']} layer{'s' if masks['layers'] == 'all' else ''}, {linears} linear{'s' * (linears > 1)}"


def _weight_decay(masks: Masks) -> str | None:
    learned = masks.get("kind") in _LEARNED and masks.get("binary") == "none"
    return f"{masks['weight_decay']:g}" if learned else None


def _kind(masks: Masks) -> str | None:
    kind, binary = masks.get("kind"), masks.get("binary")
    if kind == "random":
        return "random" if masks["random"] == "fresh" else "random, fixed"
    if kind not in _LEARNED:
        return None
    if binary != "none":
        return "binary" if binary == "released" else "binary, straight through"
    return str(masks["sharing"])


_TABLES = (
    Ablation("table3", "Table 3: layers and linears of the mask", "all layers, 1 linear", _architecture,
             paper.ARCHITECTURE, ("layers", "linears")),
    Ablation("table4", "Table 4: weight decay of the mask", "0.01", _weight_decay, paper.WEIGHT_DECAY,
             ("weight_decay",)),
    Ablation("table5", "Table 5: learned, binary and random masks", "common", _kind, paper.MASKS,
             ("kind", "binary", "random", "sharing")),
)  # fmt: skip


def table3(collected: Collected, folder: Path) -> Section:
    """All or the last layer, one or two linears."""
    return _ablation(collected, _TABLES[0])


def table4(collected: Collected, folder: Path) -> Section:
    """Weight decay of the masks."""
    return _ablation(collected, _TABLES[1])


def table5(collected: Collected, folder: Path) -> Section:
    """Common, binary and random masks."""
    return _ablation(collected, _TABLES[2])


def _ablation(collected: Collected, ablation: Ablation) -> Section:
    found, elsewhere = _called(collected, ablation)
    if not found:
        return Section(ablation.title, notes=("Nothing to show: no run of SparsePO has such a mask.",))
    at = Counter(one.beta for one in found)
    if max(at.values()) > 1:
        found = {one: label for one, label in found.items() if at[one.beta] > 1}
    order = list(ablation.figures)
    ranked = sorted(found, key=lambda one: (_rank(found[one], order), one.beta or 0.0))
    notes = [LEGEND]
    if elsewhere:
        notes.insert(0, f"Left out, as something else is not the same: {', '.join(elsewhere)}.")
    return _section(collected, ablation, {one: found[one] for one in ranked}, notes)


def _rank(label: str, order: Sequence[str]) -> tuple[int, float, str]:
    """In the paper's order; what the paper has not comes behind, numbers by size."""
    try:
        size = float(label)
    except ValueError:
        size = 0.0
    return (order.index(label) if label in order else len(order), size, label)


def _called(collected: Collected, ablation: Ablation) -> tuple[dict[Variant, str], list[str]]:
    """Variants with their labels: of all runs that have the rest of their configuration in common, those with the most
    labels, then the most runs. Besides, labels that there are only elsewhere."""
    groups: dict[str, dict[tuple[str, float | None], dict[str, TrainedRun]]] = {}
    for run in collected.trained:
        config, same = collected.settings(run), collected.alike(run, ablation.varied)
        if same is not None and config["objective"]["name"] == "sparsepo":
            label = ablation.label(config["masks"])
            if label is not None:
                # A run that two methods of the file ask for counts once.
                groups.setdefault(same, {}).setdefault((label, beta(run)), {}).setdefault(seed(run), run)
    if not groups:
        return {}, []
    best = max(groups.values(), key=lambda group: (len({label for label, _ in group}), sum(map(len, group.values()))))
    elsewhere = {label for group in groups.values() for label, _ in group} - {label for label, _ in best}
    found = {
        Variant(next(iter(by_seed.values())).method, (), at, tuple(by_seed.values())): label
        for (label, at), by_seed in best.items()
    }
    return found, sorted(elsewhere)


def _section(collected: Collected, ablation: Ablation, found: Mapping[Variant, str], notes: Sequence[str]) -> Section:
    named = {one: label if one.beta is None else f"{label}, beta {one.beta:g}" for one, label in found.items()}
    tables = []
    for suite in collected.suites("leaderboard"):
        rows = leaderboard_rows(collected, suite, named)
        if rows:
            rows += reported(ablation.figures)
            said = (f"Rows marked {paper.REPORTED}: {paper.ABLATION_SETTING}.", *_unreadable(ablation), *notes)
            tables.append(Table(f"{ablation.name}-{suite}", f"Leaderboard, {suite}", LEADERBOARD, rows, said))
    base = [one for one, label in found.items() if label == ablation.first]
    tables.append(compared(collected, ablation.name, "Measured here", named, base, ablation.first, notes))
    if len(tables) == 1:
        said = (f"{paper.ABLATION_SETTING}. Not ours, and not of our model.", *_unreadable(ablation))
        tables.append(Table(f"{ablation.name}-reported", "Reported", LEADERBOARD, reported(ablation.figures), said))
    return Section(ablation.title, tuple(tables))


def _unreadable(ablation: Ablation) -> tuple[str, ...]:
    return (paper.UNREADABLE,) if ablation.figures is paper.MASKS else ()


def compared(
    collected: Collected, name: str, title: str, found: Mapping[Variant, str], base: Sequence[Variant], first: str,
    notes: Sequence[str],
) -> Table:  # fmt: skip
    """Reward, KL, accuracy and sparsity of variants, and how far the reward is from the base's at the same beta and
    seed."""
    suites = collected.suites("frontier")
    heads = [Column("variant", "Variant"), *columns(suites)]
    rows: list[dict[str, Any]] = [
        {"variant": label, **measured(collected, one), RUNS: one.names} for one, label in found.items()
    ]
    for suite in suites:
        points = collected.final_points(suite)
        heads.append(Column(f"{suite}/difference", f"Reward minus that of {first}", "+.3f"))
        for row, one in zip(rows, found, strict=True):
            same = [other for other in base if other.beta == one.beta]
            if same and one not in same:
                row[f"{suite}/difference"] = difference(partial(_reward, points), [one], same)
    return Table(name, title, tuple(heads), rows, tuple(notes))


def _reward(points: Mapping[str, Point], run: TrainedRun) -> float | None:
    return points[run.name].reward if run.name in points else None


def ablation(collected: Collected, folder: Path) -> Section:
    """All variants but the start's, against the first method's."""
    found = {one: one.label for one in variants(collected.trained)}
    if not found:
        return Section("Ablation", notes=("Nothing to show: no run is done.",))
    first = next(iter(found))
    base = [one for one in found if (one.method, one.settings) == (first.method, first.settings)]
    table = compared(collected, "ablation", "All variants", found, base, first.kind, (LEGEND,))
    return Section("Ablation", (table,))

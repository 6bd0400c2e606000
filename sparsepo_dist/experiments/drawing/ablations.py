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
from sparsepo_dist.experiments.drawing.numbers.grouping import START, Variant, variants
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
             paper.ARCHITECTURE),
    Ablation("table4", "Table 4: weight decay of the mask", "0.01", _weight_decay, paper.WEIGHT_DECAY),
    Ablation("table5", "Table 5: learned, binary and random masks", "common", _kind, paper.MASKS),
)  # fmt: skip
_OTHERS: dict[str, tuple[str, ...]] = {
    "table3": ("weight_decay", "sharing"), "table4": ("layers", "linears", "sharing"),
    "table5": ("layers", "linears", "weight_decay"),
}  # fmt: skip
"""What must be the same in all rows."""


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
    called, held = _called(collected, ablation)
    if not called:
        return Section(ablation.title, notes=("Nothing to show: no run of SparsePO has such a mask.",))
    labels = {run.name: label for run, label in called}
    found = _named({one: _label(one, labels) for one in variants([run for run, _ in called], also=labels)})
    order = list(ablation.figures)
    ranked = sorted(found, key=lambda one: _rank(labels[one.runs[0].name], order))
    notes = [LEGEND]
    if held:
        notes.insert(0, f"The same in all of our rows: {held}.")
    return _section(collected, ablation, {one: found[one] for one in ranked}, labels, notes)


def _named(found: dict[Variant, str]) -> dict[Variant, str]:
    """Labels that several variants share, as something else differs too, with what was set behind them."""
    times = Counter(found.values())
    return {one: label if times[label] == 1 else f"{label} ({one.kind})" for one, label in found.items()}


def _rank(label: str, order: Sequence[str]) -> tuple[int, float, str]:
    """In the paper's order; what the paper has not comes behind, numbers by size."""
    try:
        size = float(label)
    except ValueError:
        size = 0.0
    return (order.index(label) if label in order else len(order), size, label)


def _label(variant: Variant, labels: Mapping[str, str]) -> str:
    beta = "" if variant.beta is None else f", beta {variant.beta:g}"
    return f"{labels[variant.runs[0].name]}{beta}"


def _called(collected: Collected, ablation: Ablation) -> tuple[list[tuple[TrainedRun, str]], str]:
    """Runs that the table is of, with their labels, and what is the same in all of them: of all that the table does not
    vary, what most runs have."""
    there: list[tuple[TrainedRun, str, tuple[Any, ...]]] = []
    names = _OTHERS[ablation.name]
    for run in collected.runs:
        config = collected.settings(run)
        masks = config.get("masks") or {}
        if run.method == START or config.get("objective", {}).get("name") != "sparsepo" or "kind" not in masks:
            continue
        label = ablation.label(masks)
        if label is not None:
            there.append((run, label, tuple(masks[name] for name in names)))
    if not there:
        return [], ""
    # Of as many labels as possible, then of as many runs.
    settings = Counter(held for _, _, held in there)
    best = max(settings, key=lambda held: (len({label for _, label, own in there if own == held}), settings[held]))
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in zip(names, best, strict=True))
    return [(run, label) for run, label, held in there if held == best], said


def _section(
    collected: Collected, ablation: Ablation, found: Mapping[Variant, str], labels: Mapping[str, str],
    notes: Sequence[str],
) -> Section:  # fmt: skip
    tables = []
    for suite in collected.suites("leaderboard"):
        rows = leaderboard_rows(collected, suite, found)
        if rows:
            rows += reported(ablation.figures)
            said = (f"Rows marked {paper.REPORTED}: {paper.ABLATION_SETTING}.", *_unreadable(ablation), *notes)
            tables.append(Table(f"{ablation.name}-{suite}", f"Leaderboard, {suite}", LEADERBOARD, rows, said))
    tables.append(_measured(collected, ablation, found, labels, notes))
    if len(tables) == 1:
        said = (f"{paper.ABLATION_SETTING}. Not ours, and not of our model.", *_unreadable(ablation))
        tables.append(Table(f"{ablation.name}-reported", "Reported", LEADERBOARD, reported(ablation.figures), said))
    return Section(ablation.title, tuple(tables))


def _unreadable(ablation: Ablation) -> tuple[str, ...]:
    return (paper.UNREADABLE,) if ablation.figures is paper.MASKS else ()


def _measured(
    collected: Collected, ablation: Ablation, found: Mapping[Variant, str], labels: Mapping[str, str],
    notes: Sequence[str],
) -> Table:  # fmt: skip
    base = [one for one in found if labels[one.runs[0].name] == ablation.first]
    return compared(collected, ablation.name, "Measured here", found, base, ablation.first, notes)


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
    found = {one: one.label for one in variants([run for run in collected.runs if run.method != START])}
    if not found:
        return Section("Ablation", notes=("Nothing to show: no run is done.",))
    first = next(iter(found))
    base = [one for one in found if (one.method, one.settings) == (first.method, first.settings)]
    table = compared(collected, "ablation", "All variants", found, base, first.kind, (LEGEND,))
    return Section("Ablation", (table,))

"""What the start of the learned masks does: how far seeds spread under each, and whether that is more than chance."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from sparsepo_dist.evaluation.frontier.figure import look
from sparsepo_dist.evaluation.tables import Column
from sparsepo_dist.experiments.contracts import TrainedRun
from sparsepo_dist.experiments.drawing.canvas import finish, label_below, new_figure, tidy
from sparsepo_dist.experiments.drawing.numbers.grouping import beta, seed, variants
from sparsepo_dist.experiments.drawing.numbers.intervals import (
    ANYWHERE,
    LEGEND,
    PERMUTATIONS,
    SHARE,
    over_seeds,
    spread_test,
)
from sparsepo_dist.experiments.drawing.numbers.reading import MASKS, Collected, Point
from sparsepo_dist.experiments.drawing.parts import RUNS, Picture, Section, Table

_OF_START = ("init", "layer_norm", "dropout", "initial_sparsity", "initial_mean")
"""Fields of masks that a start consists of."""
_OF_CALIBRATION = ("initial_sparsity", "initial_mean")
_REFUSED = (
    "Runs that are missing count in no spread. A training whose mask begins with every token at 0 is refused: see "
    "above which starts lost runs so."
)
_ORDER = ("torch", "released", "calibrated")
_TITLE = "Starts of the learned masks"
Start = tuple[str, tuple[tuple[str, str], ...]]
"""`masks.init`, and the other fields of the start that it uses, as JSON."""
Metrics = Mapping[str, tuple[str, Callable[[TrainedRun], float | None]]]
"""By key: heading, and a run's value."""


def starts(collected: Collected, folder: Path) -> Section:
    """Mean, standard deviation and range over seeds of each start; tests of the spreads; every run as a dot."""
    cells = _cells(collected)
    if not cells:
        return Section(
            _TITLE,
            notes=("Nothing to compare: no setting was run with two starts (masks.init, and what belongs to it).",),
        )
    used = {start for by_start in cells.values() for start in by_start}
    metrics = _metrics(collected)
    names = sorted(used, key=_place)
    runs = tuple(run.name for by_start in cells.values() for same in by_start.values() for run in same)
    caption = "Every run is a dot; a line joins the lowest and the highest seed of one start in one setting."
    picture = Picture(_draw(cells, names, metrics, folder / "starts.png"), caption, runs)
    said = (
        "Spread: standard deviation over seeds, then lowest to highest seed. Test: distances from each setting's own "
        f"median, dealt anew between the starts within each setting {PERMUTATIONS} times; p is the share of deals "
        "whose spreads differ as much. Not corrected for the number of tests; two starts in one setting of 3 seeds "
        "cannot come below 0.33."
    )
    return Section(
        _TITLE,
        (
            picture,
            Table("starts-tests", "Do the spreads differ?", _TESTS, _tests(cells, names, metrics), (said,)),
            Table("starts", "Each start in each setting", *_rows(cells, names, metrics), (LEGEND, said)),
        ),
        (_REFUSED,) if collected.experiment.missing else (),
    )


def _place(start: str) -> tuple[int, str]:
    init = start.partition(",")[0]
    return _ORDER.index(init) if init in _ORDER else len(_ORDER), start


def _start_of(collected: Collected, run: TrainedRun) -> Start | None:
    """That of a run whose masks are learned."""
    config = collected.settings(run)
    masks = config.get("masks") or {}
    learned = config.get("objective", {}).get("name") == "sparsepo" and masks.get("kind") in ("auto", "learned")
    if not learned or "init" not in masks:
        return None
    unused = () if masks["init"] == "calibrated" else _OF_CALIBRATION
    fields = [name for name in _OF_START if name != "init" and name not in unused]
    return str(masks["init"]), tuple((name, json.dumps(masks.get(name))) for name in fields)


def _in_words(starts: Sequence[Start]) -> dict[Start, str]:
    """`masks.init` of each, with what tells it from the others of that init."""
    used: dict[str, set[tuple[str, str]]] = {}
    for init, fields in starts:
        used.setdefault(init, set()).update(fields)
    found = {}
    for init, fields in starts:
        several = [name for name, _ in used[init]]
        told = [
            f"{name.removeprefix('initial_').replace('_', ' ')} {value}"
            for name, value in fields
            if several.count(name) > 1
        ]
        found[init, fields] = ", ".join([init, *told])
    return found


def _metrics(collected: Collected) -> Metrics:
    found: dict[str, tuple[str, Callable[[TrainedRun], float | None]]] = {}
    suites = collected.suites("frontier")
    for suite in suites:
        named = f" ({suite})" if len(suites) > 1 else ""
        for key, heading in (("reward", "Reward"), ("kl", "KL, nats")):
            found[f"{suite}/{key}"] = f"{heading}{named}", partial(_of_point, collected.final_points(suite), key)
    for mask, title in MASKS.items():
        found[mask] = f"{title}: at 0", partial(collected.sparsity, mask=mask)
    return found


def _of_point(points: Mapping[str, Point], key: str, run: TrainedRun) -> float | None:
    return float(getattr(points[run.name], key)) if run.name in points else None


def _cells(collected: Collected) -> dict[str, dict[str, list[TrainedRun]]]:
    """Runs by setting, which is all but start and seed, and by start; settings that have two starts or more."""
    found: dict[tuple[str, float | None], dict[Start, dict[str, TrainedRun]]] = {}
    for run in collected.runs:
        start, same = _start_of(collected, run), collected.alike(run, _OF_START)
        if start is not None and same is not None:
            # A run that two methods of the file ask for counts once.
            found.setdefault((same, beta(run)), {}).setdefault(start, {}).setdefault(seed(run), run)
    several = [by_start for by_start in found.values() if len(by_start) > 1]
    words = _in_words(list(dict.fromkeys(start for by_start in several for start in by_start)))
    cells: dict[str, dict[str, list[TrainedRun]]] = {}
    for by_start in several:
        name = _name(next(iter(next(iter(by_start.values())).values())))
        name = name if name not in cells else f"{name} ({len(cells) + 1})"
        cells[name] = {words[start]: list(by_seed.values()) for start, by_seed in by_start.items()}
    return cells


def _name(run: TrainedRun) -> str:
    """A setting's, after one of its runs, without what is said of the start."""
    method = "_".join(word for word in run.method.split("_") if word not in _ORDER) or run.method
    values = {name: value for name, value in run.values.items() if name.rpartition(".")[2] not in _OF_START}
    return variants([replace(run, method=method, values=values)])[0].label


def _values(runs: Sequence[TrainedRun], value: Callable[[TrainedRun], float | None]) -> list[float]:
    return [number for run in runs if (number := value(run)) is not None]


def _rows(
    cells: Mapping[str, Mapping[str, list[TrainedRun]]], names: Sequence[str], metrics: Metrics
) -> tuple[tuple[Column, ...], list[dict[str, Any]]]:
    columns = [Column("setting", "Setting"), Column("start", "Start"), Column("seeds", "Runs", "d")]
    for key, (heading, _) in metrics.items():
        columns += [Column(key, heading, ".3f"), Column(f"{key}/spread", "Spread")]
    rows = []
    for setting, by_start in cells.items():
        for start in filter(by_start.__contains__, names):
            runs = by_start[start]
            row: dict[str, Any] = {"setting": setting, "start": start, "seeds": len(runs), RUNS: [r.name for r in runs]}
            for key, (_, value) in metrics.items():
                values = _values(runs, value)
                if values:
                    row[key] = over_seeds(values, SHARE if key in MASKS else ANYWHERE)
                if len(values) > 1:
                    deviation = np.std(values, ddof=1)
                    row[f"{key}/spread"] = f"{deviation:.3f}; {min(values):.3f} to {max(values):.3f}"
            rows.append(row)
    return tuple(columns), rows


_TESTS = (
    Column("metric", "Metric"), Column("starts", "Starts"), Column("spreads", "Pooled standard deviations"),
    Column("p", "p", ".4f"), Column("runs_of", "Runs"),
)  # fmt: skip


def _tests(
    cells: Mapping[str, Mapping[str, list[TrainedRun]]], names: Sequence[str], metrics: Metrics
) -> list[dict[str, Any]]:
    rows = []
    compared = [tuple(names), *(itertools.combinations(names, 2) if len(names) > 2 else ())]
    for (heading, value), some in itertools.product(metrics.values(), compared):
        groups = [[_values(by_start.get(start, []), value) for start in some] for by_start in cells.values()]
        spreads = [_pooled([cell[place] for cell in groups]) for place in range(len(some))]
        counts = [sum(len(cell[place]) for cell in groups) for place in range(len(some))]
        if any(spread is not None for spread in spreads):
            shown = ["none" if spread is None else f"{spread:.3f}" for spread in spreads]
            rows.append(
                {"metric": heading, "starts": " / ".join(some), "spreads": " / ".join(shown), "p": spread_test(groups),
                 "runs_of": " / ".join(map(str, counts))}
            )  # fmt: skip
    return rows


def _pooled(cells: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation over seeds, pooled over settings with their degrees of freedom."""
    several = [cell for cell in cells if len(cell) > 1]
    freedom = sum(len(cell) - 1 for cell in several)
    if not freedom:
        return None
    return float(np.sqrt(sum(np.var(cell, ddof=1) * (len(cell) - 1) for cell in several) / freedom))


def _draw(
    cells: Mapping[str, Mapping[str, list[TrainedRun]]], names: Sequence[str], metrics: Metrics, path: Path
) -> Path:
    runs = [run for by_start in cells.values() for same in by_start.values() for run in same]
    drawn = {key: both for key, both in metrics.items() if _values(runs, both[1])}
    figure = new_figure(max(3.2, 0.8 * len(names)) * max(1, len(drawn)) + 0.3, 4.0)
    axes = figure.subplots(1, max(1, len(drawn)), squeeze=False)[0]
    for place, (key, (heading, value)) in zip(axes, drawn.items(), strict=False):
        for number, (setting, by_start) in enumerate(cells.items()):
            colour, marker = look(number)
            for at, start in enumerate(names):
                values = _values(by_start.get(start, []), value)
                x = at + 0.7 * ((number + 0.5) / len(cells) - 0.5)
                if values:
                    place.plot([x, x], [min(values), max(values)], color=colour, linewidth=1, alpha=0.6)
                    place.plot([x] * len(values), values, marker, color=colour, markersize=4, label=setting)
        tidy(place, heading, "", "")
        place.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names])
        place.set_xlim(-0.6, len(names) - 0.4)
        if key in MASKS:
            place.set_ylim(-0.03, 1.03)
            place.yaxis.set_major_formatter(PercentFormatter(1.0))
    label_below(figure, 3)
    return finish(figure, path)

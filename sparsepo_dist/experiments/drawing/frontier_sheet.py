"""The sheet of Figure 2: all methods together, then each alone with its band, and their hypervolumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from sparsepo_dist.evaluation.frontier.figure import look
from sparsepo_dist.experiments.drawing.canvas import finish, new_figure, tidy
from sparsepo_dist.experiments.drawing.numbers.grouping import Variant
from sparsepo_dist.experiments.drawing.numbers.intervals import Interval
from sparsepo_dist.experiments.drawing.numbers.reading import Point

_GREY = "#bbbbbb"


class Spot(NamedTuple):
    """A variant's place, at one step of its training, over its seeds."""

    variant: Variant
    step: int | None
    points: tuple[Point, ...]
    """One a seed."""
    kl: Interval
    reward: Interval


def kinds_of(spots: Sequence[Spot]) -> list[str]:
    """Methods, with what was set but beta, in their order."""
    return list(dict.fromkeys(spot.variant.kind for spot in spots))


def draw_sheet(spots: Sequence[Spot], origin: float, volumes: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write the sheet; `volumes` are the rows of the table of hypervolumes, `origin` the reference's reward."""
    kinds = kinds_of(spots)
    columns = min(4, len(kinds) + 1)
    rows = 1 + math.ceil(len(kinds) / columns)
    figure = new_figure(3.3 * columns, 3.1 * rows + 0.6)
    grid = figure.add_gridspec(rows, 2 * columns)
    points = [point for spot in spots for point in spot.points]
    overview = figure.add_subplot(grid[0, : columns + (columns > 2)])
    _overview(overview, spots, kinds, origin)
    overview.set_xlim(_range([0.0, *(point.kl for point in points)]))
    overview.set_ylim(_range([origin, *(point.reward for point in points)]))
    _forest(figure.add_subplot(grid[0, columns + (columns > 2) :]), volumes)
    for number, kind in enumerate(kinds):
        row, column = 1 + number // columns, number % columns
        axes = figure.add_subplot(grid[row, 2 * column : 2 * column + 2], sharex=overview, sharey=overview)
        _alone(axes, spots, kind, look(number)[0], origin)
        axes.tick_params(labelleft=column == 0)
        if column == 0:
            axes.set_ylabel("mean reward")
        if number + columns >= len(kinds):
            axes.set_xlabel("KL to the reference, nats")
    return finish(figure, path)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """What shows all runs: bands of few seeds may be far wider, and would make the points one."""
    room = 0.08 * (max(values) - min(values)) or 0.1
    return min(values) - room, max(values) + room


def _lines(spots: Sequence[Spot], kind: str) -> list[list[Spot]]:
    """What is joined: over beta where every run has one point, else each variant over its steps."""
    own = [spot for spot in spots if spot.variant.kind == kind]
    keys = [None if spot.step is None else spot.variant.beta for spot in own]
    return [[spot for spot, other in zip(own, keys, strict=True) if other == key] for key in dict.fromkeys(keys)]


def _overview(axes: Axes, spots: Sequence[Spot], kinds: Sequence[str], origin: float) -> None:
    for number, kind in enumerate(kinds):
        colour, marker = look(number)
        for place, line in enumerate(_lines(spots, kind)):
            kls, rewards = [spot.kl.mean for spot in line], [spot.reward.mean for spot in line]
            label = kind if place == 0 else None
            axes.plot(kls, rewards, marker=marker, color=colour, markersize=4.5, linewidth=1.2, label=label)
    axes.plot([0], [origin], "*", color="#444444", markersize=10, label="reference")
    tidy(axes, "All methods", "KL to the reference, nats", "mean reward")
    axes.legend(fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3)


def _alone(axes: Axes, spots: Sequence[Spot], kind: str, colour: str, origin: float) -> None:
    for other in kinds_of(spots):
        for line in _lines(spots, other):
            if other != kind:
                axes.plot(
                    [s.kl.mean for s in line], [s.reward.mean for s in line], color=_GREY, linewidth=0.8, zorder=1
                )
    for line in _lines(spots, kind):
        kls, rewards = [s.kl.mean for s in line], [s.reward.mean for s in line]
        low = [s.reward.mean if s.reward.low is None else s.reward.low for s in line]
        high = [s.reward.mean if s.reward.high is None else s.reward.high for s in line]
        order = np.argsort(kls)
        axes.fill_between(
            np.take(kls, order), np.take(low, order), np.take(high, order), color=colour, alpha=0.18, linewidth=0
        )
        if len(line) == 1:  # a band of no width is not to be seen
            axes.plot(kls * 2, [*low, *high], color=colour, alpha=0.4, linewidth=2)
        axes.plot(kls, rewards, marker="o", color=colour, markersize=5, linewidth=1.4, zorder=3)
        for spot in line:
            axes.plot(
                [p.kl for p in spot.points], [p.reward for p in spot.points], ".", color=colour, alpha=0.6, markersize=4
            )
            if spot.variant.beta is not None and len(line) < 9:
                axes.annotate(
                    f"{spot.variant.beta:g}", (spot.kl.mean, spot.reward.mean), xytext=(4, 4),
                    textcoords="offset points", fontsize=6.5, color="#333333",
                )  # fmt: skip
    axes.plot([0], [origin], "*", color="#444444", markersize=8)
    tidy(axes, kind, "", "", size=8.5)


def _forest(axes: Axes, volumes: Sequence[dict[str, Any]]) -> None:
    for place, row in enumerate(volumes):
        volume, (colour, _) = row["volume"], look(place)
        if volume.low is not None:
            axes.plot([volume.low, volume.high], [place, place], color=colour, linewidth=2)
        axes.plot([volume.mean], [place], "o", color=colour, markersize=5)
    axes.set_yticks(range(len(volumes)), [f"{row['method']} ({row['places']})" for row in volumes], fontsize=7)
    axes.invert_yaxis()
    axes.yaxis.tick_right()
    tidy(axes, "Hypervolume (of so many points)", "nats x reward", "")
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)

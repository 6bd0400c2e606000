"""Figure 2: reward against response-level KL, a band for each method, and hypervolumes with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from sparsepo_dist.evaluation.frontier.figure import look
from sparsepo_dist.evaluation.frontier.pareto import MARGIN, hypervolume
from sparsepo_dist.evaluation.frontier.pareto import Point as Place
from sparsepo_dist.evaluation.tables import Column
from sparsepo_dist.experiments.drawing.canvas import finish, new_figure, tidy
from sparsepo_dist.experiments.drawing.numbers.grouping import START, Variant, methods, seed, shown, variants
from sparsepo_dist.experiments.drawing.numbers.intervals import (
    LEGEND,
    Interval,
    mean_over_prompts,
    over_prompts,
    over_seeds,
)
from sparsepo_dist.experiments.drawing.numbers.reading import Collected, Point
from sparsepo_dist.experiments.drawing.parts import RUNS, Picture, Section, Table

_COLUMNS = (
    Column("method", "Method"), Column("beta", "beta", "g"), Column("settings", "Set besides"), Column("step", "Step"),
    Column("kl", "KL (nats)", ".3f"), Column("reward", "Reward", ".4f"), Column("seeds", "Runs", "d"),
)  # fmt: skip
_VOLUMES = (
    Column("method", "Method"), Column("volume", "Hypervolume (nats x reward)", ".3f"),
    Column("places", "Points", "d"), Column("seeds", "Seeds", "d"), Column("note", "Left out"),
)  # fmt: skip
_GREY = "#bbbbbb"


class Spot(NamedTuple):
    """A variant's place, at one step of its training, over its seeds."""

    variant: Variant
    step: int | None
    points: tuple[Point, ...]
    """One a seed."""
    kl: Interval
    reward: Interval


def figure2(collected: Collected, folder: Path) -> Section:
    """A sheet, a table of points and one of hypervolumes for each suite of the driver frontier."""
    parts: list[Table | Picture] = []
    for suite in collected.suites("frontier"):
        spots = _spots(collected, suite)
        if spots:
            parts += _suite(suite, spots, folder)
    notes = () if parts else ("Nothing to draw: no run has results of evaluation/frontier.py.",)
    return Section("Figure 2: reward against response-level KL", tuple(parts), notes)


def _suite(suite: str, spots: Sequence[Spot], folder: Path) -> list[Table | Picture]:
    points = [point for spot in spots for point in spot.points]
    origin = float(np.mean([point.origin for point in points]))
    worst = (MARGIN * max(spot.kl.mean for spot in spots), origin)
    volumes = [_volume([spot for spot in spots if spot.variant.method == method], worst) for method in _methods(spots)]
    sheet = _draw(spots, origin, volumes, folder / f"figure2-{suite}.png")
    runs = tuple(dict.fromkeys(point.run.name for point in points))
    prompts = max(len(point.rewards) for point in points)
    caption = (
        f"{points[0].scorer}; {f'{prompts} prompts; ' if prompts else ''}KL(pi || pi_ref) summed over each response "
        "that the model sampled. Above: each method's points, means over seeds, in the order of beta. Below: each "
        "method alone (the others grey): its runs as small dots, its means, and bands of 95 % of the mean reward by "
        "Student's t over seeds, cut at the edges of the sheet. Star: the reference. Above, right: "
        "hypervolumes with 95 % intervals."
    )
    rows = [
        {
            "method": shown(spot.variant.method), "beta": spot.variant.beta, "settings": spot.variant.set or None,
            "step": spot.step, "kl": spot.kl, "reward": spot.reward, "seeds": len(spot.points),
            RUNS: [point.run.name for point in spot.points],
        }
        for spot in spots
    ]  # fmt: skip
    said = (
        f"Measured from a KL of {worst[0]:.3f} nats, {MARGIN:g} times the largest mean, and the reference's reward of "
        f"{origin:.4f}. Of each seed the hypervolume of its points of all betas and steps, then the mean over seeds; "
        "of methods with one seed a bootstrap over prompts that draws the same prompts for all its points. Fewer "
        "points cover less: compare methods with as many."
    )
    return [
        Picture(sheet, caption, runs),
        Table(f"figure2-{suite}-hypervolume", f"Hypervolume, {suite}", _VOLUMES, volumes, (said, LEGEND)),
        Table(f"figure2-{suite}", f"Points, {suite}", _COLUMNS, rows, (LEGEND,)),
    ]


def _methods(spots: Sequence[Spot]) -> list[str]:
    return methods([spot.points[0].run for spot in spots])


def _spots(collected: Collected, suite: str) -> list[Spot]:
    """Of all methods but the start, whose place is the reference's star."""
    points = [point for point in collected.points(suite) if point.run.method != START]
    spots = []
    for variant in variants([run for run in collected.runs if run.method != START]):
        own = [point for point in points if point.run.name in variant.names]
        for step in sorted({point.step for point in own}, key=lambda step: math.inf if step is None else step):
            at = tuple(point for point in own if point.step == step)
            spots.append(Spot(variant, step, at, _mean(at, "kl"), _mean(at, "reward")))
    return spots


def _mean(points: Sequence[Point], quantity: str) -> Interval:
    """Over seeds, or over prompts where there is one run and its numbers by prompt are there."""
    by_prompt = points[0].kls if quantity == "kl" else points[0].rewards
    if len(points) == 1 and len(by_prompt) > 1:
        return mean_over_prompts(by_prompt)
    return over_seeds([getattr(point, quantity) for point in points])


def _volume(spots: Sequence[Spot], worst: Place) -> dict[str, Any]:
    """A method's row: the hypervolume of each seed that has all points, then over seeds; of one seed, over prompts."""
    by_seed: dict[str, list[Point]] = {}
    for spot in spots:
        for point in spot.points:
            by_seed.setdefault(seed(point.run), []).append(point)
    most = max(map(len, by_seed.values()))
    whole = {name: points for name, points in by_seed.items() if len(points) == most}
    if len(whole) > 1:
        volume = over_seeds([hypervolume([(p.kl, p.reward) for p in points], worst) for points in whole.values()])
    else:
        [points] = whole.values()
        volume = _volume_over_prompts(points, worst)
    short = [f"seed {name} ({len(points)} of {most} points)" for name, points in by_seed.items() if len(points) < most]
    return {
        "method": shown(spots[0].variant.method), "key": spots[0].variant.method, "volume": volume, "places": most,
        "seeds": len(whole), "note": ", ".join(short) or None,
        RUNS: [point.run.name for points in whole.values() for point in points],
    }  # fmt: skip


def _volume_over_prompts(points: Sequence[Point], worst: Place) -> Interval:
    lengths = {len(values) for point in points for values in (point.kls, point.rewards)}
    if len(lengths) > 1 or lengths == {0}:
        return over_seeds([hypervolume([(point.kl, point.reward) for point in points], worst)])
    kls, rewards = np.stack([p.kls for p in points]), np.stack([p.rewards for p in points])

    def drawn_volume(drawn: np.ndarray) -> float:
        places = zip(kls[:, drawn].mean(1).tolist(), rewards[:, drawn].mean(1).tolist(), strict=True)
        return hypervolume(list(places), worst)

    return over_prompts(drawn_volume, kls.shape[1])


def _draw(spots: Sequence[Spot], origin: float, volumes: Sequence[dict[str, Any]], path: Path) -> Path:
    names = _methods(spots)
    columns = min(4, len(names) + 1)
    rows = 1 + math.ceil(len(names) / columns)
    figure = new_figure(3.3 * columns, 3.1 * rows + 0.6)
    grid = figure.add_gridspec(rows, 2 * columns)
    points = [point for spot in spots for point in spot.points]
    overview = figure.add_subplot(grid[0, : columns + (columns > 2)])
    _overview(overview, spots, names, origin)
    overview.set_xlim(_range([0.0, *(point.kl for point in points)]))
    overview.set_ylim(_range([origin, *(point.reward for point in points)]))
    _forest(figure.add_subplot(grid[0, columns + (columns > 2) :]), volumes)
    for number, method in enumerate(names):
        row, column = 1 + number // columns, number % columns
        axes = figure.add_subplot(grid[row, 2 * column : 2 * column + 2], sharex=overview, sharey=overview)
        _alone(axes, spots, method, look(number)[0], origin)
        axes.tick_params(labelleft=column == 0)
        if column == 0:
            axes.set_ylabel("mean reward")
        if number + columns >= len(names):
            axes.set_xlabel("KL to the reference, nats")
    return finish(figure, path)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """What shows all runs: bands of few seeds may be far wider, and would make the points one."""
    room = 0.08 * (max(values) - min(values)) or 0.1
    return min(values) - room, max(values) + room


def _lines(spots: Sequence[Spot], method: str) -> list[list[Spot]]:
    """What is joined: over beta where every run has one point, else each variant over its steps."""
    own = [spot for spot in spots if spot.variant.method == method]
    keys = [spot.variant.settings if spot.step is None else (spot.variant.settings, spot.variant.beta) for spot in own]
    return [[spot for spot, other in zip(own, keys, strict=True) if other == key] for key in dict.fromkeys(keys)]


def _overview(axes: Axes, spots: Sequence[Spot], names: Sequence[str], origin: float) -> None:
    for number, method in enumerate(names):
        colour, marker = look(number)
        for place, line in enumerate(_lines(spots, method)):
            kls, rewards = [spot.kl.mean for spot in line], [spot.reward.mean for spot in line]
            label = shown(method) if place == 0 else None
            axes.plot(kls, rewards, marker=marker, color=colour, markersize=4.5, linewidth=1.2, label=label)
    axes.plot([0], [origin], "*", color="#444444", markersize=10, label="reference")
    tidy(axes, "All methods", "KL to the reference, nats", "mean reward")
    axes.legend(fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3)


def _alone(axes: Axes, spots: Sequence[Spot], method: str, colour: str, origin: float) -> None:
    for other in _methods(spots):
        for line in _lines(spots, other):
            if other != method:
                axes.plot(
                    [s.kl.mean for s in line], [s.reward.mean for s in line], color=_GREY, linewidth=0.8, zorder=1
                )
    for line in _lines(spots, method):
        kls, rewards = [s.kl.mean for s in line], [s.reward.mean for s in line]
        low = [s.reward.mean if s.reward.low is None else s.reward.low for s in line]
        high = [s.reward.mean if s.reward.high is None else s.reward.high for s in line]
        order = np.argsort(kls)
        axes.fill_between(
            np.take(kls, order), np.take(low, order), np.take(high, order), color=colour, alpha=0.18, linewidth=0
        )
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
    tidy(axes, shown(method), "", "", size=8.5)


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

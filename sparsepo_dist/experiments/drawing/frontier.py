"""Figure 2: reward against response-level KL, a band for each method, and hypervolumes with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsepo_dist.evaluation.frontier.pareto import MARGIN, hypervolume
from sparsepo_dist.evaluation.frontier.pareto import Point as Place
from sparsepo_dist.evaluation.tables import Column
from sparsepo_dist.experiments.drawing.frontier_sheet import Spot, draw_sheet, kinds_of
from sparsepo_dist.experiments.drawing.numbers.grouping import (
    Variant,
    left_out,
    over_beta,
    seed,
    shown,
    variants,
)
from sparsepo_dist.experiments.drawing.numbers.intervals import (
    ANYWHERE,
    LEGEND,
    POSITIVE,
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
    Column("difference", "Minus the base's", "+.3f"), Column("places", "Points", "d"), Column("seeds", "Seeds", "d"),
    Column("note", "Left out"),
)  # fmt: skip


def figure2(collected: Collected, folder: Path) -> Section:
    """A sheet, a table of points and one of hypervolumes for each suite of the driver frontier."""
    parts: list[Table | Picture] = []
    # The start's place is the reference's star.
    having, alone = over_beta(variants(collected.trained))
    for suite in collected.suites("frontier"):
        spots = _spots(collected, suite, having)
        if spots:
            parts += _suite(suite, spots, folder)
    notes = left_out(alone) if parts else ("Nothing to draw: no run has results of evaluation/frontier.py.",)
    return Section("Figure 2: reward against response-level KL", tuple(parts), notes)


def _suite(suite: str, spots: Sequence[Spot], folder: Path) -> list[Table | Picture]:
    points = [point for spot in spots for point in spot.points]
    origin = float(np.mean([point.origin for point in points]))
    worst = (MARGIN * max(spot.kl.mean for spot in spots), origin)
    volumes = _volumes(spots, worst)
    sheet = draw_sheet(spots, origin, volumes, folder / f"figure2-{suite}.png")
    runs = tuple(dict.fromkeys(point.run.name for point in points))
    prompts = max(len(point.rewards) for point in points)
    caption = (
        f"{points[0].scorer}; {f'{prompts} prompts; ' if prompts else ''}KL(pi || pi_ref) summed over each response "
        "that the model sampled. Above: each method's points, means over seeds, in the order of beta. Below: each "
        "method alone (the others grey): its runs as small dots, its means, and bands of 95 % of the mean reward by "
        "Student's t over seeds (of one run: bootstrap over prompts), cut at the edges of the sheet. Star: the "
        "reference. Above, right: hypervolumes with 95 % intervals."
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
        f"points cover less: compare methods with as many. The base is {volumes[0]['base']}; differences are taken "
        "seed by seed."
    )
    return [
        Picture(sheet, caption, runs),
        Table(f"figure2-{suite}-hypervolume", f"Hypervolume, {suite}", _VOLUMES, volumes, (said, LEGEND)),
        Table(f"figure2-{suite}", f"Points, {suite}", _COLUMNS, rows, (LEGEND,)),
    ]


def _spots(collected: Collected, suite: str, having: Sequence[Variant]) -> list[Spot]:
    points = collected.points(suite)
    spots = []
    for variant in having:
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
    return over_seeds([getattr(point, quantity) for point in points], POSITIVE if quantity == "kl" else ANYWHERE)


def _volumes(spots: Sequence[Spot], worst: Place) -> list[dict[str, Any]]:
    """Rows of the table; differences are from the first method with as many points as any, seed by seed."""
    kinds = kinds_of(spots)
    by_kind = {kind: _whole_seeds([spot for spot in spots if spot.variant.kind == kind]) for kind in kinds}
    places = {kind: len(next(iter(seeds.values()))) for kind, (seeds, _) in by_kind.items()}
    base = max(kinds, key=lambda kind: places[kind])
    volumes = {
        kind: {name: hypervolume([(p.kl, p.reward) for p in points], worst) for name, points in seeds.items()}
        for kind, (seeds, _) in by_kind.items()
    }
    rows = []
    for kind, (seeds, short) in by_kind.items():
        own, first, points = volumes[kind], volumes[base], next(iter(seeds.values()))
        both = [name for name in own if name in first and kind != base and places[kind] == places[base]]
        rows.append(
            {
                "method": kind, "places": places[kind], "seeds": len(seeds), "note": short or None,
                "volume": over_seeds(list(own.values()), POSITIVE) if len(own) > 1 else _over_prompts(points, worst),
                "difference": over_seeds([own[name] - first[name] for name in both]) if len(both) > 1 else None,
                "base": base, RUNS: [point.run.name for same in seeds.values() for point in same],
            }
        )  # fmt: skip
    return rows


def _whole_seeds(spots: Sequence[Spot]) -> tuple[dict[str, list[Point]], str]:
    """A method's points by seed, of seeds that have as many as any; the others in words."""
    by_seed: dict[str, list[Point]] = {}
    for spot in spots:
        for point in spot.points:
            by_seed.setdefault(seed(point.run), []).append(point)
    most = max(map(len, by_seed.values()))
    short = [f"seed {name} ({len(points)} of {most} points)" for name, points in by_seed.items() if len(points) < most]
    return {name: points for name, points in by_seed.items() if len(points) == most}, ", ".join(short)


def _over_prompts(points: Sequence[Point], worst: Place) -> Interval:
    lengths = {len(values) for point in points for values in (point.kls, point.rewards)}
    if len(lengths) > 1 or lengths == {0}:
        return over_seeds([hypervolume([(point.kl, point.reward) for point in points], worst)])
    kls, rewards = np.stack([p.kls for p in points]), np.stack([p.rewards for p in points])

    def drawn_volume(drawn: np.ndarray) -> float:
        places = zip(kls[:, drawn].mean(1).tolist(), rewards[:, drawn].mean(1).tolist(), strict=True)
        return hypervolume(list(places), worst)

    return over_prompts(drawn_volume, kls.shape[1])

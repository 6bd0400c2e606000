"""Points (KL, reward) that no other one beats, and how much they cover."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]
"""KL in nats, reward."""
MARGIN = 1.1
"""The hypervolume's reference point lies so many times as far as the farthest model, so that that one counts too."""


def pareto(points: Sequence[Point]) -> list[int]:
    """Places of the points that no other one beats, by rising KL; equal points stay together."""
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    kept: list[int] = []
    for place in order:
        if not kept or points[place][1] > points[kept[-1]][1] or points[place] == points[kept[-1]]:
            kept.append(place)
    return kept


def hypervolume(points: Sequence[Point], worst: Point) -> float:
    """Area, in nats x reward, of what the points beat and that is still better than `worst`."""
    inside = [point for point in points if point[0] < worst[0] and point[1] > worst[1]]
    area, reward = 0.0, worst[1]
    for place in pareto(inside):
        kl, higher = inside[place]
        area += (worst[0] - kl) * (higher - reward)
        reward = higher
    return area

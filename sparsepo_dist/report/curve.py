"""A metric over the steps, in bounded memory: all of a short run, of a long one what its figure shows."""

from __future__ import annotations

from typing import NamedTuple

MOST_BUCKETS = 1000
"""Even. A figure is some 500 dots wide, so that two points in each of so many buckets lose nothing of it."""


class Point(NamedTuple):
    """One value."""

    number: int
    """How many came before it."""
    step: int
    value: float


class Curve:
    """Points in the order of the file.

    Up to MOST_BUCKETS of them are all kept. Of more, which lie in buckets of equally many points, each bucket keeps its
    lowest and its highest; the first and the last point are always kept. Means over buckets are kept besides: what is
    smoothed must not be extremes.
    """

    def __init__(self) -> None:
        self._count, self._width = 0, 1
        self._first: Point | None = None
        self._last: Point | None = None
        self._lowest: list[Point] = []
        self._highest: list[Point] = []
        self._sums: list[tuple[int, int, float]] = []
        """Of each bucket: points, the sum of their steps and of their values."""

    def add(self, step: int, value: float) -> None:
        """The next point."""
        point = self._last = Point(self._count, step, value)
        self._first = self._first or point
        if self._count % self._width == 0:
            if len(self._lowest) == MOST_BUCKETS:
                self._widen()
            self._lowest.append(point)
            self._highest.append(point)
            self._sums.append((0, 0, 0.0))
        elif value < self._lowest[-1].value:
            self._lowest[-1] = point
        elif value > self._highest[-1].value:
            self._highest[-1] = point
        self._sums[-1] = _added(self._sums[-1], (1, step, value))
        self._count += 1

    @property
    def thinned(self) -> bool:
        """Whether there were more points than are kept."""
        return self._width > 1

    def means(self) -> tuple[list[float], list[float]]:
        """Mean steps and mean values of the buckets."""
        return [steps / n for n, steps, _ in self._sums], [total / n for n, _, total in self._sums]

    def series(self) -> tuple[list[int], list[float]]:
        """Steps and values of what was kept."""
        ends = [point for point in (self._first, self._last) if point is not None]
        kept = sorted({*self._lowest, *self._highest, *ends})
        return [point.step for point in kept], [point.value for point in kept]

    def _widen(self) -> None:
        self._width *= 2
        self._lowest = list(map(_lower, self._lowest[::2], self._lowest[1::2]))
        self._highest = list(map(_higher, self._highest[::2], self._highest[1::2]))
        self._sums = list(map(_added, self._sums[::2], self._sums[1::2]))


def _lower(one: Point, other: Point) -> Point:
    return other if other.value < one.value else one


def _higher(one: Point, other: Point) -> Point:
    return other if other.value > one.value else one


def _added(one: tuple[int, int, float], other: tuple[int, int, float]) -> tuple[int, int, float]:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]

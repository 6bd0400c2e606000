"""What is drawn of a run, however long it is."""

from __future__ import annotations

import math
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from sparsepo_dist.report.curve import MOST_BUCKETS, Curve
from sparsepo_dist.report.reading import read_run


def drawn(values: list[float]) -> tuple[list[int], list[float]]:
    curve = Curve()
    for step, value in enumerate(values):
        curve.add(step, value)
    return curve.series()


def test_all_of_a_short_run() -> None:
    values = [math.sin(step) for step in range(MOST_BUCKETS)]
    for count in (0, 1, 2, 500, MOST_BUCKETS):
        assert drawn(values[:count]) == (list(range(count)), values[:count])


@pytest.mark.parametrize("count", [MOST_BUCKETS + 1, 10 * MOST_BUCKETS + 7, 33_333])
def test_first_last_and_extremes_of_a_long_one(count: int) -> None:
    values = [math.sin(step / 500) + (step * 7919 % 101) / 1000 for step in range(count)]
    values[count // 3], values[count // 2] = 40.0, -40.0
    steps, shown = drawn(values)
    assert MOST_BUCKETS // 2 <= len(steps) <= 2 * MOST_BUCKETS + 2
    assert shown == [values[step] for step in steps] and steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, count - 1) and (max(shown), min(shown)) == (40.0, -40.0)
    bucket = 2 ** math.ceil(math.log2(count / MOST_BUCKETS))
    assert max(later - earlier for earlier, later in pairwise(steps)) < 2 * bucket, "nowhere is more left out"


def test_memory_does_not_grow_with_the_run(run: Path) -> None:
    file = run / "metrics.jsonl"
    row = file.read_text().splitlines()[1]
    peaks = []
    for count in (2 * MOST_BUCKETS, 8 * MOST_BUCKETS):
        file.write_text("".join(row.replace('"step": 1', f'"step": {step}') + "\n" for step in range(count)))
        tracemalloc.start()
        found = read_run(run)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.last("train")["step"] == found.series("loss", "train")[0][-1] == count - 1
    assert peaks[1] < 1.3 * peaks[0]

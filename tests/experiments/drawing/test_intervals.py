"""Intervals and the test of spreads against tables, closed forms and full enumeration."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest

from sparsepo_dist.experiments.drawing.numbers.intervals import (
    LEGEND,
    POSITIVE,
    SHARE,
    mean_over_prompts,
    over_pairs,
    over_prompts,
    over_seeds,
    spread_test,
)


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262)])
def test_students_interval_has_the_quantiles_of_printed_tables(n: int, quantile: float) -> None:
    values = [float(value) for value in range(n)]
    found = over_seeds(values)
    half = quantile * statistics.stdev(values) / n**0.5
    assert found.mean == statistics.mean(values) and found.n == n
    assert found.low is not None and found.high is not None
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((half, half), rel=3e-4)


def test_one_seed_has_no_interval_and_shares_stay_shares() -> None:
    alone = over_seeds([0.5])
    assert (alone.mean, alone.low, alone.high) == (0.5, None, None) and f"{alone:.2f}" == "0.50"
    assert over_seeds([0.9, 1.0, 0.8], SHARE).high == 1.0
    assert over_seeds([0.0, 0.2], SHARE).low == 0.0
    spread = over_seeds([0.1, 3.0], POSITIVE)
    assert spread.low == 0.0 and spread.high is not None and spread.high > 10


def test_the_bootstrap_of_two_prompts_is_known() -> None:
    """Means of two draws from {0, 1} are 0, 1/2 and 1, the ends a quarter of the time each."""
    found = mean_over_prompts(np.array([0.0, 1.0]))
    assert (found.mean, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 2)


def test_the_bootstrap_of_many_prompts_is_nearly_normal() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    found = mean_over_prompts(values)
    half = 1.96 * values.std() / 20
    assert found.low is not None and found.high is not None
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_whole_prompts_are_drawn() -> None:
    """A statistic of two columns sees the same prompts in both: their difference never varies."""
    columns = np.array([[1.0, 5.0, 9.0], [2.0, 6.0, 10.0]])
    found = over_prompts(lambda drawn: float((columns[1, drawn] - columns[0, drawn]).mean()), 3)
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_each_kind_of_interval_is_marked_as_the_legend_has_it() -> None:
    marks = [
        f"{found:.2f}"[-1] for found in (over_seeds([1.0, 2.0]), mean_over_prompts(np.ones(2)), over_pairs(0.5, 8))
    ]
    assert marks[0] == "]" and marks[1] in LEGEND and marks[2] in LEGEND and len(set(marks)) == 3


def test_spreads_are_compared_as_by_all_deals() -> None:
    """One cell, two groups of four: all 35 x 2 ways to deal eight distances."""
    tight, wide = [1.0, 1.1, 0.8, 1.25], [3.0, 9.0, 4.5, 0.5]
    distances = [abs(value - statistics.median(group)) / 1.0 for group in (tight, wide) for value in group]
    mean = statistics.mean(distances)

    def between(chosen: tuple[int, ...]) -> float:
        inside = [distances[place] for place in chosen]
        outside = [distances[place] for place in range(8) if place not in chosen]
        return sum(len(part) * (statistics.mean(part) - mean) ** 2 for part in (inside, outside))

    deals = [between(chosen) for chosen in itertools.combinations(range(8), 4)]
    exact = sum(deal >= between((0, 1, 2, 3)) - 1e-12 for deal in deals) / len(deals)
    assert spread_test([[tight, wide]]) == pytest.approx(exact, abs=0.01)


def test_cells_have_scales_and_places_of_their_own() -> None:
    """The same two groups twice, the second time moved and a thousand times as wide: evidence adds up."""
    tight, wide = [1.0, 1.1, 0.8, 1.25], [3.0, 9.0, 4.5, 0.5]
    once = spread_test([[tight, wide]])
    far = [[1e5 + 1000 * value for value in group] for group in (tight, wide)]
    twice = spread_test([[tight, wide], far])
    assert once is not None and twice is not None and twice < once / 4


def test_equal_spreads_are_not_found_different() -> None:
    random = np.random.default_rng(0)
    found = [spread_test([[random.normal(size=5), random.normal(size=5)]], seed=seed) for seed in range(60)]
    assert 0 <= sum(p is not None and p < 0.1 for p in found) <= 13, "a tenth of them, up to chance"


def test_what_cannot_be_compared_has_no_p() -> None:
    assert spread_test([]) is None
    assert spread_test([[[1.0, 2.0], []]]) is None
    assert spread_test([[[1.0], [2.0]]]) is None, "one value each: no distance"
    assert spread_test([[[1.0, 1.0], [2.0, 2.0]]]) is None, "no spread at all"

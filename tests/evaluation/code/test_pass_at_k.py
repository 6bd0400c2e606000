"""pass@k against exact fractions and against counting subsets."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from sparsepo_dist.evaluation.code.pass_at_k import mean_pass_at_k, pass_at_k


def closed_form(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


def test_equals_the_share_of_subsets_that_hold_a_pass() -> None:
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations(range(n), k))
            share = Fraction(sum(any(sample < c for sample in subset) for subset in subsets), len(subsets))
            assert closed_form(n, c, k) == share
            assert pass_at_k(n, c, k) == pytest.approx(float(share), abs=1e-15)


@pytest.mark.parametrize("n", [100, 200, 20_000])
def test_equals_the_closed_form_where_binomials_overflow(n: int) -> None:
    for c, k in itertools.product((0, 1, 7, n // 2, n - 1, n), (1, 10, 100)):
        assert pass_at_k(n, c, k) == pytest.approx(float(closed_form(n, c, k)), rel=1e-12, abs=1e-15)


def test_the_mean_leaves_out_what_too_few_samples_cannot_say() -> None:
    means = mean_pass_at_k([(10, 3), (12, 0)], (1, 10, 100))
    assert list(means) == [1, 10]
    assert means[1] == pytest.approx(0.15) and means[10] == pytest.approx(0.5)


@pytest.mark.parametrize("counts", [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_impossible_counts(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(*counts)

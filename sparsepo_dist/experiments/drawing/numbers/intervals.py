"""Means with 95 % intervals: over seeds where there are several, else over prompts or pairs; a test of spreads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from sparsepo_dist.errors import UserError
from sparsepo_dist.report.interval import wilson

LEVEL = 0.95
RESAMPLES = 2000
PERMUTATIONS = 10_000
ANYWHERE, POSITIVE, SHARE = (-math.inf, math.inf), (0.0, math.inf), (0.0, 1.0)
SEEDS, PROMPTS, PAIRS = "seeds", "prompts", "pairs"
_MARKS = {SEEDS: "", PROMPTS: "\u2020", PAIRS: "\u2021"}
LEGEND = (
    "Brackets: 95 % intervals; plain: Student's t over seeds, whose prompts and pairs are the same; \u2020: one run, "
    "bootstrap over its prompts; \u2021: one run, Wilson's over its held-out pairs; none: one number, and nothing to "
    "say how sure it is."
)


class Interval(NamedTuple):
    """A mean and how sure it is; formats as `0.41 [0.30, 0.52]`, with the mark that LEGEND explains."""

    mean: float
    low: float | None
    high: float | None
    n: int
    """How many the mean is of."""
    over: str
    """What was counted: SEEDS, PROMPTS or PAIRS."""

    def __format__(self, form: str) -> str:
        return f"{self.mean:{form}}{self.bounds(form)}"

    def bounds(self, form: str) -> str:
        """What follows the mean: brackets, or nothing where no interval is known."""
        if self.low is None or self.high is None:
            return ""
        return f" [{self.low:{form}}, {self.high:{form}}]{_MARKS[self.over]}"


def over_seeds(values: Sequence[float], within: tuple[float, float] = ANYWHERE) -> Interval:
    """Student's t-interval of the mean of one value a seed: mean +- t(0.975, n - 1) s / sqrt(n); none where n is 1.

    Args:
        within: what values can be at all; the interval ends there.

    Raises:
        UserError: scipy, which has the quantiles, is not installed.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(mean, None, None, n, SEEDS)
    half = float(student_quantile(n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Interval(mean, max(mean - half, within[0]), min(mean + half, within[1]), n, SEEDS)


@cache
def student_quantile(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t with so many degrees of freedom. Raises UserError as `over_seeds`."""
    try:
        from scipy.stats import t
    except ImportError:
        raise UserError("intervals over seeds need scipy: pip install 'sparsepo_dist[eval]'") from None
    return float(t.ppf((1 + LEVEL) / 2, freedom))


def over_prompts(statistic: Callable[[np.ndarray], float], prompts: int, seed: int = 0) -> Interval:
    """Percentile bootstrap that draws whole prompts, for one run.

    Args:
        statistic: of numbers of prompts, each of which may come several times, int [prompts].
    """
    draws = _draws(prompts, seed)
    return _percentiles(statistic(np.arange(prompts)), np.array([statistic(draw) for draw in draws]), prompts)


def mean_over_prompts(values: np.ndarray, seed: int = 0) -> Interval:
    """As `over_prompts`, of the mean of one value a prompt, [prompts]."""
    return _percentiles(float(values.mean()), values[_draws(len(values), seed)].mean(1), len(values))


def _draws(prompts: int, seed: int) -> np.ndarray:
    """[RESAMPLES, prompts]: numbers of prompts."""
    return np.random.default_rng(seed).integers(prompts, size=(RESAMPLES, prompts))


def _percentiles(value: float, drawn: np.ndarray, prompts: int) -> Interval:
    """None where there is one prompt, which always is drawn."""
    if prompts < 2:
        return Interval(value, None, None, prompts, PROMPTS)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), prompts, PROMPTS)


def over_pairs(share: float, pairs: int) -> Interval:
    """Wilson's interval of a share of so many pairs, for one run."""
    low, high = wilson(share * pairs, pairs)
    return Interval(share, low, high, pairs, PAIRS)


def spread_test(cells: Sequence[Sequence[Sequence[float]]], seed: int = 0) -> float | None:
    """Whether groups differ in how far their values spread: Brown and Forsythe's idea (Levene's test about medians), by
    permutation, so that it needs no normal values and serves few seeds.

    Cells (a method at one beta, say) have medians and scales of their own: a value counts by its distance from the
    median of its own group in its cell, in units of the cell's mean distance. Distances are dealt anew between the
    groups within each cell. Of a group of odd size in a cell one distance is 0 whatever the spread, and is left out.

    Args:
        cells: [cells][groups][values]; every cell has all groups in the same order, some of which may be empty.

    Returns:
        The p-value: the share of deals, the one that is there included, whose sum of squares between groups is at least
        as large; None where no cell has distances of two groups.
    """
    random = np.random.default_rng(seed)
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    for groups in cells:
        distances = [_distances(values) for values in groups]
        pooled = np.concatenate(distances)
        if sum(len(part) > 0 for part in distances) < 2 or pooled.mean() == 0:
            continue
        deals = random.permuted(np.tile(pooled / pooled.mean(), (PERMUTATIONS + 1, 1)), axis=1)
        deals[0] = pooled / pooled.mean()
        start = 0
        for group, part in enumerate(distances):
            sums[group] = sums.get(group, 0.0) + deals[:, start : start + len(part)].sum(1)
            counts[group] = counts.get(group, 0) + len(part)
            start += len(part)
    if not sums:
        return None
    # Every distance is 1 in the mean, so that a group's sum would be its count.
    between = np.stack([(sums[group] - counts[group]) ** 2 / counts[group] for group in sums if counts[group]]).sum(0)
    # Equal up to rounding is equal: the same distances in another order add up differently.
    return float(np.mean(between >= between[0] - 1e-9))


def _distances(values: Sequence[float]) -> np.ndarray:
    """From the median, without the one that is 0 by construction."""
    if not len(values):
        return np.empty(0)
    distances = np.sort(np.abs(np.asarray(values, dtype=float) - np.median(values)))
    return distances[1:] if len(values) % 2 else distances

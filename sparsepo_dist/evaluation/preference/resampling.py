"""Intervals by a bootstrap over prompts: measurements of one prompt resemble each other, so whole prompts are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
_AT_ONCE = 200
_SEED = 0
Floats = NDArray[np.float64]


def draws(prompts: Sequence[int], resamples: int = RESAMPLES) -> Iterator[Floats]:
    """How often each item is in a resample, [some, items], for so many resamples in all.

    Args:
        prompts: [items]: the prompt of each, counted from 0.
    """
    places = np.asarray(prompts)
    count = int(places.max()) + 1
    generator = np.random.default_rng(_SEED)
    for start in range(0, resamples, _AT_ONCE):
        rows = min(_AT_ONCE, resamples - start)
        yield generator.multinomial(count, np.full(count, 1 / count), size=rows)[:, places].astype(np.float64)


def mean_interval(values: Sequence[float] | Floats, prompts: Sequence[int]) -> tuple[float, float]:
    """The 95 % interval of the mean of `values` [items]; percentiles of the resampled means."""
    items = np.asarray(values, dtype=np.float64)
    return percentiles([(weights @ items) / weights.sum(1) for weights in draws(prompts)])


def percentiles(parts: Sequence[Floats]) -> tuple[float, float]:
    """The middle 95 % of what resamples gave."""
    low, high = np.percentile(np.concatenate(parts), [2.5, 97.5])
    return float(low), float(high)

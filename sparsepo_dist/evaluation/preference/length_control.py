"""Length-controlled win rate (Dubois et al., 2024, arXiv 2404.04475): what the win rate would be at equal lengths.

AlpacaEval 2 fits sigmoid(theta + phi tanh(d / std(d)) + psi gamma_x) to the preferences, d being the difference of the
two responses' lengths in characters and gamma_x how difficult the instruction x is, and predicts with d = 0. Here the
term of difficulty is left out: gamma_x is known for AlpacaEval's 805 instructions alone, from the answers of many
models. So are the answers that were made to game it, which AlpacaEval adds with a small weight against truncation. Its
L1 penalty, of a strength found by cross-validation, is a fixed and weak L2 penalty here (normal priors): one answer,
and a finite one, also where length explains every preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparsepo_dist.evaluation.preference.resampling import Floats, draws, percentiles

PRIOR = (10.0, 2.5)
"""Standard deviations of the normal priors of theta and phi, as rstanarm has them for logistic models."""
_STEPS, _LONGEST, _SMALL = 200, 1.0, 1e-9
_SAME = "the lengths differ by the same everywhere, so that the effect of length cannot be told from the models' own"


class LengthControlled(NamedTuple):
    """A win rate at equal lengths, in [0, 1], with its 95 % interval by a bootstrap over prompts."""

    rate: float
    low: float
    high: float


def length_controlled(
    preferences: Sequence[float], lengths: Sequence[float], others: Sequence[float], prompts: Sequence[int]
) -> LengthControlled | str:
    """The win rate at equal lengths; or why there is none.

    Args:
        preferences: [items] in [0, 1]: 1 where the model wins, one half for a tie.
        lengths: [items] of its responses, in characters.
        others: [items] of the responses that they are held against.
        prompts: [items]: the prompt of each, counted from 0.
    """
    apart = np.asarray(lengths, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    spread = apart.std(ddof=1) if len(apart) > 1 else 0.0
    if spread == 0:
        return _SAME
    features, wins = np.tanh(apart / spread), np.asarray(preferences, dtype=np.float64)
    whole = fitted(features, wins, np.ones((1, len(wins))))
    resampled = [_sigmoid(fitted(features, wins, weights, whole)[:, 0]) for weights in draws(prompts)]
    return LengthControlled(float(_sigmoid(whole[0, 0])), *percentiles(resampled))


def fitted(features: Floats, wins: Floats, weights: Floats, start: Floats | None = None) -> Floats:
    """[fits, 2]: theta and phi of sigmoid(theta + phi features), the likeliest under PRIOR, for each row of weights.

    Newton's steps, none longer than one, on what is concave.

    Args:
        features: [items].
        wins: [items] in [0, 1].
        weights: [fits, items]: how often each item counts.
        start: [1, 2] to begin at.
    """
    design, penalty = np.stack([np.ones_like(features), features]), 1 / np.square(PRIOR)
    found = np.zeros((len(weights), 2)) if start is None else np.repeat(start, len(weights), axis=0)
    for _ in range(_STEPS):
        chances = _sigmoid(found @ design)
        information = np.einsum("fi,ai,bi->fab", weights * chances * (1 - chances), design, design, optimize=True)
        score = (weights * (wins - chances)) @ design.T - penalty * found
        step = np.linalg.solve(information + np.diag(penalty), score[:, :, None])[:, :, 0]
        step *= np.minimum(1.0, _LONGEST / np.maximum(np.abs(step).max(1, keepdims=True), _SMALL))
        found += step
        if np.abs(step).max() < _SMALL:
            break
    return found


def _sigmoid(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -values))

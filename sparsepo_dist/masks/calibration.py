"""Where a learned mask starts: shifts and scales that make a stated share of tokens 0 and the mean a stated number.

Everything here is arithmetic on what a head says of N tokens; no hidden states. One layer: its scores are shifted by
their quantile, and scaled. Several: each layer is shifted so that nearly all of its masks are positive (tokens that
only one layer lets through would all be 0, or none of them) and scaled to deviation 1; then the quantile of
(w_o . m) / sum(m) is taken off every entry of w_o, which makes 0 of exactly the tokens below it, and w_o is scaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_dist.masks.learned import LearnedMask, within

LAYER_SHARE = 0.01
"""Of the tokens that one of several layers starts with at 0, at most; at most a tenth of the share asked for."""
_HALVINGS = 60
_APART = 1e-6  # of the values' range


class Target(NamedTuple):
    """What a mask is asked to be over the first global batch."""

    share: float
    """Of tokens at 0 (at the floor, if it has one)."""
    mean: float


class LayerSettings(NamedTuple):
    """Scores z^l become scale (z^l - shift), [L] each, float64."""

    shift: Tensor
    scale: Tensor


def layer_settings(scores: Tensor, head: LearnedMask, target: Target) -> LayerSettings:
    """The first half: of a head whose scores over the tokens are `scores` [L, N]."""
    scores = scores.double()
    if head.out is None:
        shift = threshold(scores[0], target.share)
        return LayerSettings(shift[None], _scale((scores[0] - shift).relu(), head, target)[None])
    share = min(LAYER_SHARE, target.share / 10)
    shift = torch.stack([threshold(layer, share) for layer in scores])
    deviation = scores.std(1, correction=0)
    return LayerSettings(shift, torch.where(deviation > 0, 1 / deviation, 1.0))


def output_settings(scores: Tensor, head: LearnedMask, target: Target) -> Tensor | LayerSettings:
    """The second half, of scores [L, N] as they are after the first: the new w_o [L], float64.

    With one layer, what rounding its parameters has left to shift.
    """
    scores = scores.double()
    if head.out is None:
        shift = threshold(scores[0], target.share)
        return LayerSettings(shift[None], torch.ones_like(shift)[None])
    masks, out = scores.relu(), head.out.detach().double().cpu()
    total = masks.sum(0)
    ratio = torch.where(total > 0, (out @ masks) / total, -math.inf)
    out = out - threshold(ratio, target.share)
    return out * _scale((out @ masks).relu(), head, target)


@torch.no_grad()
def apply_settings(head: LearnedMask, settings: Tensor | LayerSettings) -> None:
    """Give a head, whose parameters are whole, what one of the halves found."""
    if isinstance(settings, Tensor):
        assert head.out is not None
        head.out.copy_(settings)
        return
    two = head.second_weight is not None
    weight, bias = (head.second_weight, head.second_bias) if two else (head.weight, head.bias)
    assert weight is not None and bias is not None
    shift, scale = (part.to(bias.device) for part in settings)
    bias.copy_((bias.double() - shift) * scale)
    weight.copy_(weight.double() * scale[:, None])


def threshold(values: Tensor, share: float) -> Tensor:
    """[]: a number that the rounded share of `values` [N] lies below, and at least one above.

    It lies between two values that rounding tells apart, the nearest: the first tokens of a pair's two responses are
    predicted alike, and which way a token at the threshold falls would be for each layout to say.
    """
    ordered = values.sort().values
    highest = ordered[-1]
    least = _APART * (highest - ordered[ordered.isfinite()][0])
    places = 1 + (ordered.diff() > least).nonzero().squeeze(-1)
    if ordered[0].isfinite():
        places = torch.cat([places.new_zeros(1), places])
    place = places[(places - round(share * len(ordered))).abs().argmin()]
    above = ordered[place]
    if place and ordered[place - 1].isfinite():
        return (ordered[place - 1] + above) / 2
    return above - (highest - above + above.abs() * 1e-3) / len(ordered)


def _scale(mask: Tensor, head: LearnedMask, target: Target) -> Tensor:
    """[]: the factor by which a non-negative mask [N] has, with its floor and bound, the target's mean."""
    if not head.bounded:
        return (target.mean - head.floor) / mask.mean()

    def reached(scale: Tensor) -> bool:
        return bool(within(mask * scale, floor=head.floor, bounded=True).mean() >= target.mean)

    return _bisected(reached, (target.mean - head.floor) / mask.mean())


def _bisected(reached: Callable[[Tensor], bool], low: Tensor) -> Tensor:
    """The least number, from `low` upwards, that is enough; doubling, then halving."""
    high = low
    for _ in range(_HALVINGS):
        if reached(high):
            break
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high

"""Mean, median and histogram of what masks weigh, against plain Python over all tokens."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from sparsepo_dist.contracts import TokenizedPair, TokenMasks
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.training.mask_weights import HIGHEST, LOWEST, MaskWeights

PAIRS = [TokenizedPair((1,), (2,) * 5, (3,) * 4), TokenizedPair((1,), (2,) * 3, (3,) * 2)]


def micro_batch(pair: int, weight: float = 1.0) -> object:
    return pack([PAIRS[pair]], [weight], "packed")


@pytest.mark.parametrize("floor", [0.0, 0.125])
def test_all_tokens_of_all_micro_batches_count_alike_and_fillers_do_not(floor: float) -> None:
    first = torch.tensor([0, 3.0, 0.5, 0, 100, 1e-5, 1.0, 0, 2]) + floor
    second, filler = torch.tensor([0.25, 0, 0, -2.0, 4.0]) + floor, torch.full((5,), 9.0)
    weights = MaskWeights()
    for pair, mask, share in ((0, first, 0.5), (1, second, 0.5), (1, filler, 0.0)):
        weights.add(TokenMasks(mask, torch.full_like(mask, floor), floor=floor), micro_batch(pair, share))
    report = weights.reduce()
    kept = [value for value in [*first.tolist(), *second.tolist()] if value != floor]
    assert report.metrics["weight/reward_mask/mean"] == pytest.approx(statistics.mean(kept))
    assert report.metrics["weight/reward_mask/median"] == pytest.approx(statistics.median(kept))
    octaves = [-1 if v < 2.0**LOWEST else min(math.floor(math.log2(v)), HIGHEST) - LOWEST for v in kept if v > 0]
    bins = [octaves.count(number) for number in range(-1, HIGHEST - LOWEST + 1)]
    negative = sum(value < 0 for value in kept)
    assert report.histograms["histogram/reward_mask"] == [negative, 14 - len(kept), *bins]
    assert report.dead == ["divergence_mask"] and "weight/divergence_mask/mean" not in report.metrics


def test_nothing_is_said_without_masks() -> None:
    assert MaskWeights().reduce() == ({}, {})

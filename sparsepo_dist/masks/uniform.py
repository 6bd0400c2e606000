"""Random masks, for comparison: a number per token that depends on the token and the seed alone."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch


def random_mask(batch: PackedBatch, seed: int, mask: int, step: int | None = None) -> Tensor:
    """[N] float32, uniform in [0, 1).

    A hash of seed, pair, branch, the token's position in its prompt + response, and which mask (0 or 1) it is for:
    neither the layout, the rank nor the micro-batch that a pair is in matters. With `step`, each step has its own.
    """
    branch, position = batch.sequence_id % 2, batch.position_ids[batch.predict_index]
    pair = batch.pair_index[batch.sequence_id // 2]
    return hashed_uniform(seed, pair, branch, position, mask, 0 if step is None else step + 1)


def hashed_uniform(seed: int, first: Tensor, *parts: Tensor | int) -> Tensor:
    """[N] float32, uniform in [0, 1): a hash of seed, first [N] int64 and the other parts, in this order."""
    state = torch.full_like(first, seed)
    for part in (first, *parts):
        state = _mix(state) + part
    # 24 bits fill a float32 below 1 exactly.
    return _shift(_mix(state), 40).float() * 2.0**-24


_INCREMENT, _FIRST, _SECOND = (
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # fmt: skip


def _mix(state: Tensor) -> Tensor:
    """splitmix64's step on int64, whose products and sums wrap as unsigned ones do."""
    state = state + _INCREMENT
    state = (state ^ _shift(state, 30)) * _FIRST
    state = (state ^ _shift(state, 27)) * _SECOND
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own keeps the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)

"""Weights [N] that follow from where tokens stand, and random ones, which depend on token and seed alone."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch, Responses


def positions(responses: Responses) -> Tensor:
    """[N] int64: 0 for the first trained token of each response, 1 for the next."""
    return places(responses, torch.zeros_like(responses.sequence_id))


def decay(responses: Responses, factor: float, dtype: torch.dtype) -> Tensor:
    """[N]: factor^t of the token at position t, so that first tokens weigh 1."""
    return factor ** positions(responses).to(dtype)


def tail(responses: Responses, weight: float, dtype: torch.dtype) -> Tensor:
    """[N]: 1 up to the length of the pair's shorter response, `weight` beyond it."""
    shared = positions(responses) < _shorter(responses)
    return torch.full(shared.shape, weight, dtype=dtype, device=shared.device).masked_fill(shared, 1.0)


def sampled(responses: Responses, seed: int, dtype: torch.dtype) -> Tensor:
    """[N]: 1 for as many tokens of each response as the pair's shorter one has, drawn evenly; 0 for the others.

    The draw is a hash of seed, the pair's token ids, branch and position: it is the same in every epoch, on any rank
    and in any micro-batch.
    """
    assert responses.keys is not None
    ids = responses.sequence_id
    draws = hashed_uniform(seed, responses.keys[ids // 2], ids % 2, positions(responses))
    return (places(responses, draws) < _shorter(responses)).to(dtype)


def places(responses: Responses, values: Tensor) -> Tensor:
    """[N] int64: how many tokens of the same response have a lower value, or an equal one and stand before."""
    ids = responses.sequence_id
    order = values.argsort(stable=True)
    order = order[ids[order].argsort(stable=True)]
    counts = torch.bincount(ids, minlength=2 * responses.pairs)
    first = (counts.cumsum(0) - counts)[ids[order]]
    found = torch.empty_like(ids)
    found[order] = torch.arange(len(ids), device=ids.device) - first
    return found


def _shorter(responses: Responses) -> Tensor:
    """[N]: the length of the shorter response of each token's pair."""
    ids = responses.sequence_id
    lengths = torch.bincount(ids, minlength=2 * responses.pairs).view(responses.pairs, 2)
    return lengths.min(1).values[ids // 2]


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

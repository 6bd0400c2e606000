"""Where tokens stand in their responses, and weights [N] that follow from it."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses
from sparsepo_dist.masks.uniform import hashed_uniform
from sparsepo_dist.objectives.base import Sums


def positions(responses: Responses) -> Tensor:
    """[N] int64: 0 for the first trained token of each response, 1 for the next."""
    return _places(responses, torch.zeros_like(responses.sequence_id))


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
    return (_places(responses, draws) < _shorter(responses)).to(dtype)


def _places(responses: Responses, values: Tensor) -> Tensor:
    """[N] int64: how many tokens of the same response have a lower value, or an equal one and stand before."""
    ids = responses.sequence_id
    order = values.argsort(stable=True)
    order = order[ids[order].argsort(stable=True)]
    counts = torch.bincount(ids, minlength=2 * responses.pairs)
    first = (counts.cumsum(0) - counts)[ids[order]]
    places = torch.empty_like(ids)
    places[order] = torch.arange(len(ids), device=ids.device) - first
    return places


def _shorter(responses: Responses) -> Tensor:
    """[N]: the length of the shorter response of each token's pair."""
    return torch.minimum(*Sums(responses).lengths)[responses.sequence_id // 2]

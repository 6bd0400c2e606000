"""Masks that select tokens by an oracle's reward (SePO, arXiv 2408.13518). N response tokens, P pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def oracle_mask(oracle_logps: Tensor, reference_logps: Tensor, sequence_id: Tensor, pairs: int, share: float) -> Tensor:
    """[N] float32: 1 for the selected tokens, else 0.

    A token's reward is its log-probability under the oracle less that under the reference. Of each response the given
    share of tokens is selected, rounded, at least one: the highest rewards of a chosen response, the lowest of a
    rejected one; of equal rewards the earlier token's.
    """
    reward = oracle_logps - reference_logps
    descending = torch.where(sequence_id % 2 == 0, -reward, reward)
    order = torch.argsort(descending, stable=True)
    order = order[torch.argsort(sequence_id[order], stable=True)]
    lengths = sequence_id.new_zeros(2 * pairs).index_add(0, sequence_id, torch.ones_like(sequence_id))
    quota = (share * lengths.double()).round().clamp(min=1)
    place = torch.arange(len(order), device=order.device) - (lengths.cumsum(0) - lengths)[sequence_id[order]]
    selected = (place < quota[sequence_id[order]]).float()
    return torch.empty_like(selected).index_copy(0, order, selected)

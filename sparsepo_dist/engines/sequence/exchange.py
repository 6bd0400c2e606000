"""Attention over tokens that lie on several ranks: heads are exchanged for tokens before it, and back behind it.

As Ulysses does (Jacobs et al., arXiv 2309.14509), around any attention function: within it a rank has all tokens of the
micro-batch and a part of the heads.

Shapes: n ranks of a group, T packed tokens, C = ceil(T / n) of a rank, H heads, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from sparsepo_dist.contracts import TokenShare
from sparsepo_dist.engines.sequence.group import check_heads


def attended_in_group(
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor], share: TokenShare, tokens: int, query: Tensor,
    key: Tensor, value: Tensor, sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """Attention of this rank's tokens: [1, H, C, d] in (fewer heads in key and value: grouped queries), [1, C, H, d]
    out. Every rank of the group must call this.

    Args:
        attend: makes [1, T, h, d] of [1, h, T, d] and the sinks [h] of its heads.
        tokens: T of the micro-batch; what fills up the last ranks' parts takes no part.
        sinks: [H], where the model has them.

    Raises:
        UserError: the ranks do not divide the heads.
    """
    heads = query.shape[1]
    check_heads(share.ranks, heads, "the model")
    # Grouped keys and values are repeated only where there are too few for each rank to have whole ones.
    repeats = math.lcm(key.shape[1], share.ranks) // key.shape[1]
    if repeats > 1:
        key, value = (states.repeat_interleave(repeats, 1) for states in (key, value))
    query, key, value = (_tokens_for_heads(states, share)[:, :, :tokens] for states in (query, key, value))
    own_sinks = None if sinks is None else sinks.chunk(share.ranks)[share.place]
    attended = attend(query, key, value, own_sinks)
    return _heads_for_tokens(attended, share)


def _tokens_for_heads(states: Tensor, share: TokenShare) -> Tensor:
    """[1, H, C, d] of this rank's tokens become [1, H / n, n C, d] of its heads."""
    parts = states[0].unflatten(0, (share.ranks, -1))
    return _AllToAll.apply(parts, share.group).transpose(0, 1).flatten(1, 2).unsqueeze(0)


def _heads_for_tokens(attended: Tensor, share: TokenShare) -> Tensor:
    """[1, T, H / n, d] of this rank's heads become [1, C, H, d] of its tokens."""
    padding = -attended.shape[1] % share.ranks
    parts = F.pad(attended[0], (0, 0, 0, 0, 0, padding)).unflatten(0, (share.ranks, -1))
    return _AllToAll.apply(parts, share.group).transpose(0, 1).flatten(1, 2).unsqueeze(0)


class _AllToAll(torch.autograd.Function):
    """[n, ...]: part i goes to rank i of the group, and what rank i has for this one takes its place."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _exchanged(parts, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _exchanged(gradients[0], ctx.group), None


def _exchanged(parts: Tensor, group: Any) -> Tensor:
    parts = parts.contiguous()
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return received

"""Block-wise SDPA for the packed layouts: few large calls, for GPUs without a kernel that knows blocks.

Shapes: T packed tokens, B blocks padded to S slots inside the attention only, H heads, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsepo_dist.contracts import AttentionBlocks, PackedBatch
from sparsepo_dist.data.batching.pack import shared_mask
from sparsepo_dist.engines.attention.reach import FULL, Reach
from sparsepo_dist.engines.attention.registration import register
from sparsepo_dist.engines.attention.terms import Terms, attended_block

BLOCKWISE = "sparsepo_blockwise"


def blockwise_inputs(batch: PackedBatch, reach: Reach = FULL) -> dict[str, Any]:
    """What `blockwise_attention` is told of a micro-batch, the same for all layers of one reach in a forward pass."""
    blocks = batch.attention
    assert blocks is not None
    mask = None if blocks.causal and reach == FULL else shared_mask(blocks, batch.branch)
    if mask is not None and reach != FULL:
        mask &= _within(blocks, batch.position_ids, reach)
    return {"gather_index": blocks.gather_index, "scatter_index": blocks.scatter_index, "mask": mask}


def blockwise_attention(
    query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any], *, scaling: float | None, dropout: float,
    terms: Terms,
) -> Tensor:  # fmt: skip
    """Attention within blocks: [1, H, T, d] in, [1, T, H, d] out; tokens of different blocks never meet.

    Cost and memory grow with B x S x S, not with T x T.
    """
    gather, scatter, mask = (told[name] for name in ("gather_index", "scatter_index", "mask"))
    blocks, slots = gather.shape
    query, key, value = (
        states[0].index_select(1, gather.flatten()).unflatten(1, (blocks, slots)).transpose(0, 1)
        for states in (query, key, value)
    )
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask is not None and query.device.type != "cpu":
        # On GPUs no fused kernel takes grouped queries and a mask: SDPA would make all scores.
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    attended = attended_block(query, key, value, mask, scaling=scaling, dropout=dropout, terms=terms)
    return attended.transpose(1, 2).flatten(0, 1).index_select(0, scatter).unsqueeze(0)


def _within(blocks: AttentionBlocks, position_ids: Tensor, reach: Reach) -> Tensor:
    """[B, 1, S, S] bool: keys that layers of a reach see of a sequence; slots of padding see themselves."""
    position = position_ids[blocks.gather_index]
    own = torch.eye(position.shape[1], dtype=torch.bool, device=position.device)
    return ((position[:, None, :] >= reach.first(position)[:, :, None]) | own).unsqueeze(1)


register(BLOCKWISE, blockwise_attention)

"""How a batch's layout reaches a transformers model: an attention function of ours, or one dense mask where a model
takes none.

Shapes: T packed tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, PretrainedConfig

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.blockwise import BLOCKWISE, blockwise_attention, blockwise_inputs
from sparsepo_dist.engines.flex import FLEX, flex_block_attention, flex_inputs
from sparsepo_dist.engines.spans import token_spans
from sparsepo_dist.engines.varlen import VARLEN, varlen_attention, varlen_inputs
from sparsepo_dist.masks.hooks import RECORDED_ATTENTIONS


class LayoutAttention(NamedTuple):
    """An attention function for packed layouts."""

    function: Callable[..., tuple[Tensor, None]]
    """As transformers' AttentionInterface wants it."""
    inputs: Callable[[PackedBatch], dict[str, Any]]
    """What it gets as `attention_blocks`: made once a forward pass, on the batch's device."""


LAYOUT_ATTENTIONS = {
    BLOCKWISE: LayoutAttention(blockwise_attention, blockwise_inputs),
    FLEX: LayoutAttention(flex_block_attention, flex_inputs),
    VARLEN: LayoutAttention(varlen_attention, varlen_inputs),
}
"""By transformers' `attn_implementation`."""

for _name, _attention in LAYOUT_ATTENTIONS.items():
    AttentionInterface.register(_name, _attention.function)
    RECORDED_ATTENTIONS.add(_name)


def model_inputs(batch: PackedBatch, config: PretrainedConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments of a transformers base model: [rows, T / rows] ids, and the layout's attention."""
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids.view(batch.rows, -1),
        "position_ids": batch.position_ids.view(batch.rows, -1),
        "use_cache": False,
    }
    attention = LAYOUT_ATTENTIONS.get(config._attn_implementation)
    if batch.attention is None:
        inputs["attention_mask"] = (batch.pair_id >= 0).view(batch.rows, -1)
    elif attention is not None:
        inputs["attention_blocks"] = attention.inputs(batch)
    else:
        inputs["attention_mask"] = dense_mask(batch, dtype)
    return inputs


def dense_mask(batch: PackedBatch, dtype: torch.dtype) -> Tensor:
    """[1, 1, T, T] additive mask: 0 where a token sees another, the dtype's minimum elsewhere."""
    position = torch.arange(len(batch.input_ids), device=batch.input_ids.device)
    sees = token_spans(batch).see(position[:, None], position)
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)[
        None, None
    ]

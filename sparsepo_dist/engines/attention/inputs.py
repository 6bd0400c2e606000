"""How a batch's layout reaches a transformers model: an attention function of ours, or one dense mask where a model
takes none.

Shapes: T packed tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.attention.blockwise import BLOCKWISE, blockwise_inputs
from sparsepo_dist.engines.attention.flex import FLEX, flex_inputs
from sparsepo_dist.engines.attention.segments import SEGMENTS, segment_inputs
from sparsepo_dist.engines.attention.spans import token_spans
from sparsepo_dist.engines.attention.varlen import VARLEN, varlen_inputs

ATTENTION_INPUTS: dict[str, Callable[[PackedBatch], dict[str, Any]]] = {
    SEGMENTS: segment_inputs,
    BLOCKWISE: blockwise_inputs,
    FLEX: flex_inputs,
    VARLEN: varlen_inputs,
}
"""What an attention function of ours gets as `attention_blocks`, by transformers' `attn_implementation`: made once a
forward pass, on the batch's device."""


def model_inputs(batch: PackedBatch, config: PretrainedConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments of a transformers base model: [rows, T / rows] ids, and the layout's attention."""
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids.view(batch.rows, -1),
        "position_ids": batch.position_ids.view(batch.rows, -1),
        "use_cache": False,
    }
    attention_inputs = ATTENTION_INPUTS.get(config._attn_implementation)
    if batch.attention is None:
        inputs["attention_mask"] = (batch.pair_id >= 0).view(batch.rows, -1)
    elif attention_inputs is not None:
        inputs["attention_blocks"] = attention_inputs(batch)
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

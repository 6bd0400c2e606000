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

from sparsepo_dist.contracts import AttentionBlocks, PackedBatch
from sparsepo_dist.engines.attention.blockwise import BLOCKWISE, blockwise_inputs
from sparsepo_dist.engines.attention.flex import FLEX, flex_inputs
from sparsepo_dist.engines.attention.reach import REMEDY, Reach, longest_sequence
from sparsepo_dist.engines.attention.registration import Told
from sparsepo_dist.engines.attention.segments import SEGMENTS, segment_inputs
from sparsepo_dist.engines.attention.spans import token_spans
from sparsepo_dist.engines.attention.varlen import VARLEN, varlen_inputs
from sparsepo_dist.engines.sequence.rows import own_part
from sparsepo_dist.errors import UserError

ATTENTION_INPUTS: dict[str, Callable[[PackedBatch, Reach], dict[str, Any]]] = {
    SEGMENTS: segment_inputs,
    BLOCKWISE: blockwise_inputs,
    FLEX: flex_inputs,
    VARLEN: varlen_inputs,
}
"""What an attention function of ours is told of a batch, by transformers' `attn_implementation`; on its device."""

WITHOUT_ATTENTION = frozenset({"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"})
"""Families, by `model_type`, that take neither positions nor a mask of attention: a state goes from token to token."""


def model_inputs(batch: PackedBatch, config: PretrainedConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments of a transformers base model: [rows, T / rows] ids, and the layout's attention; where ranks
    share the batch, of this rank's tokens.

    Raises:
        UserError: the model gets a dense mask, and a sequence is longer than its attention's window; or ranks share
            the batch and its attention is none of ours.
    """
    inputs: dict[str, Any] = {
        "input_ids": own_part(batch, batch.input_ids, 0).view(batch.rows, -1),
        "position_ids": own_part(batch, batch.position_ids, 0).view(batch.rows, -1),
        "use_cache": False,
    }
    attention_inputs = ATTENTION_INPUTS.get(config._attn_implementation)
    if batch.share is not None and (batch.attention is None or attention_inputs is None):
        raise UserError(
            f"training.sequence_parallel: a {config.model_type} model has attention of its own here; say "
            "--training.sequence_parallel 1"
        )
    if batch.attention is not None and attention_inputs is None:
        if config.model_type in WITHOUT_ATTENTION:
            return inputs
        _check_dense(config, batch.attention)
        inputs["attention_mask"] = dense_mask(batch, dtype)
        return inputs
    # Where nothing is padded too: without one, transformers looks for packed sequences in position_ids itself.
    inputs["attention_mask"] = (own_part(batch, batch.pair_id, -1) >= 0).view(batch.rows, -1)
    if attention_inputs is not None and batch.attention is not None:
        inputs["attention_blocks"] = Told(batch, attention_inputs)
    return inputs


def dense_mask(batch: PackedBatch, dtype: torch.dtype) -> Tensor:
    """[1, 1, T, T] additive mask: 0 where a token sees another, the dtype's minimum elsewhere."""
    position = torch.arange(len(batch.input_ids), device=batch.input_ids.device)
    sees = token_spans(batch).see(position[:, None], position)
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)[
        None, None
    ]


def windows(config: PretrainedConfig) -> dict[str, int]:
    """Windows and chunks of attention that a text decoder's configuration has on, by field."""
    names = ["sliding_window"] if getattr(config, "use_sliding_window", True) else []
    sizes = {name: getattr(config, name, None) for name in (*names, "attention_chunk_size")}
    return {name: size for name, size in sizes.items() if size}


def _check_dense(config: PretrainedConfig, blocks: AttentionBlocks) -> None:
    """One mask goes to all layers as it is, and no model narrows it to a window."""
    longest = longest_sequence(blocks.spans)
    for name, size in windows(config).items():
        if longest > size:
            raise UserError(
                f"data.layout: a sequence of {longest} tokens is longer than the {name} of {size}, which a "
                f"{config.model_type} model knows in its own attention only; {REMEDY}"
            )

"""How a batch's layout reaches a transformers model: block-wise SDPA, or one dense mask where a model takes no other.

Shapes: T packed tokens, B blocks padded to S slots inside the attention only, H heads, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig

from sparsepo_dist.contracts import AttentionBlocks, PackedBatch
from sparsepo_dist.data.config import Layout
from sparsepo_dist.masks.hooks import RECORDED_ATTENTIONS, see_attention

BLOCKWISE = "sparsepo_blockwise"


def blockwise_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attention_blocks: dict[str, Tensor | None],
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within blocks: [1, H, T, d] in, [1, T, H, d] out; tokens of different blocks never meet.

    Cost and memory grow with B x S x S, not with T x T.
    """
    see_attention(module, query, key)
    gather, scatter, mask = (attention_blocks[name] for name in ("gather_index", "scatter_index", "mask"))
    assert gather is not None and scatter is not None
    blocks, slots = gather.shape
    query, key, value = (
        states[0].index_select(1, gather.flatten()).unflatten(1, (blocks, slots)).transpose(0, 1)
        for states in (query, key, value)
    )
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return attended.transpose(1, 2).flatten(0, 1).index_select(0, scatter).unsqueeze(0), None


AttentionInterface.register(BLOCKWISE, blockwise_attention)
RECORDED_ATTENTIONS.add(BLOCKWISE)


def attention_implementation(model_class: type, layout: Layout) -> str:
    """The `attn_implementation` a model is loaded with for a layout."""
    if layout != "padded" and getattr(model_class, "_supports_attention_backend", False):
        return BLOCKWISE
    return "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"


def model_inputs(batch: PackedBatch, config: PretrainedConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments of a transformers base model: [rows, T / rows] ids, and the layout's attention."""
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids.view(batch.rows, -1),
        "position_ids": batch.position_ids.view(batch.rows, -1),
        "use_cache": False,
    }
    if batch.attention is None:
        inputs["attention_mask"] = (batch.pair_id >= 0).view(batch.rows, -1)
    elif config._attn_implementation == BLOCKWISE:
        # A plain dict: ZeRO-3's hooks look for tensors in containers they know.
        inputs["attention_blocks"] = vars(batch.attention)
    else:
        inputs["attention_mask"] = dense_mask(batch.attention, dtype)
    return inputs


def dense_mask(blocks: AttentionBlocks, dtype: torch.dtype) -> Tensor:
    """[1, 1, T, T] additive mask: 0 where a token sees another, the dtype's minimum elsewhere."""
    block, slot = (
        blocks.scatter_index // blocks.gather_index.shape[1],
        (blocks.scatter_index % blocks.gather_index.shape[1]),
    )
    sees = block[:, None] == block
    if blocks.mask is None:
        sees &= slot[:, None] >= slot
    else:
        sees &= blocks.mask[block[:, None], 0, slot[:, None], slot]
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)[
        None, None
    ]

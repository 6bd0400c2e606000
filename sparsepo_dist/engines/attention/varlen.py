"""FlashAttention's variable lengths for the layout `packed`: blocks of any length, each causal, without padding.

Shapes: T packed tokens, B blocks, H heads, d head width.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import Tensor

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.attention.registration import register
from sparsepo_dist.engines.attention.spans import block_starts

VARLEN = "sparsepo_varlen"  # a name with `flash` in it would have transformers prepare its own


def varlen_inputs(batch: PackedBatch) -> dict[str, Any]:
    """What `varlen_attention` is told of a micro-batch, the same for every layer of a forward pass."""
    assert batch.attention is not None and batch.attention.causal
    return {"starts": block_starts(batch), "longest": batch.attention.gather_index.shape[1]}


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any], *, scaling: float | None, dropout: float
) -> Tensor:
    """Attention by flash-attn: [1, H, T, d] in (fewer heads in key and value: grouped queries), [1, T, H, d] out.

    Source of the arguments: flash_attn_varlen_func of flash-attn 2.
    """
    from flash_attn import flash_attn_varlen_func

    starts, longest = told["starts"], told["longest"]
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    attended: Tensor = flash_attn_varlen_func(
        query, key, value,
        cu_seqlens_q=starts, cu_seqlens_k=starts, max_seqlen_q=longest, max_seqlen_k=longest,
        dropout_p=dropout, softmax_scale=scaling, causal=True,
    )  # fmt: skip
    return attended.unsqueeze(0)


register(VARLEN, varlen_attention)


def flash_attn_installed() -> bool:
    """Whether the package flash-attn is there."""
    return importlib.util.find_spec("flash_attn") is not None

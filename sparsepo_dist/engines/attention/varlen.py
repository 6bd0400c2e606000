"""FlashAttention's variable lengths for the layout `packed`: blocks of any length, each causal, without padding.

Shapes: T packed tokens, B blocks, H heads, d head width.
"""

from __future__ import annotations

import importlib.util
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.attention.reach import FULL, Reach
from sparsepo_dist.engines.attention.registration import register
from sparsepo_dist.engines.attention.terms import Terms
from sparsepo_dist.errors import UserError

VARLEN = "sparsepo_varlen"  # a name with `flash` in it would have transformers prepare its own


def varlen_inputs(batch: PackedBatch, reach: Reach = FULL) -> dict[str, Any]:
    """What `varlen_attention` is told of a micro-batch, the same for all layers of one reach in a forward pass.

    Chunks are sequences of their own: each is causal and sees nothing before it.
    """
    assert batch.attention is not None and batch.attention.causal
    lengths: list[int] = []
    for span in batch.attention.spans:
        length = sum(span)
        step = reach.chunk or length
        lengths += (min(step, length - start) for start in range(0, length, step))
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=batch.input_ids.device)
    return {"starts": starts, "longest": max(lengths), "window": reach.window}


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any], *, scaling: float | None, dropout: float,
    terms: Terms,
) -> Tensor:  # fmt: skip
    """Attention by flash-attn: [1, H, T, d] in (fewer heads in key and value: grouped queries), [1, T, H, d] out.

    Source of the arguments: flash_attn_varlen_func of flash-attn 2; its window leaves out the query itself.

    Raises:
        UserError: attention sinks.
    """
    from flash_attn import flash_attn_varlen_func

    if terms.sinks is not None:
        raise UserError("model.attention: FlashAttention has no attention sinks; say --model.attention flex")
    starts, longest, window = (told[name] for name in ("starts", "longest", "window"))
    extra: dict[str, Any] = {} if window is None else {"window_size": (window - 1, 0)}
    if terms.softcap is not None:
        extra["softcap"] = terms.softcap
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    attended: Tensor = flash_attn_varlen_func(
        query, key, value,
        cu_seqlens_q=starts, cu_seqlens_k=starts, max_seqlen_q=longest, max_seqlen_k=longest,
        dropout_p=dropout, softmax_scale=scaling, causal=True, **extra,
    )  # fmt: skip
    return attended.unsqueeze(0)


register(VARLEN, varlen_attention)


def flash_attn_installed() -> bool:
    """Whether the package flash-attn is there."""
    return importlib.util.find_spec("flash_attn") is not None

"""SDPA over one sequence after the other of the packed layouts: nothing is padded, and what is causal has no mask.

A prompt and the response behind it are one causal sequence; a rejected response that shares the prompt attends to
prompt and itself in a call of its own. Many small calls suit CPUs.

Shapes: T packed tokens, H heads, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.attention.registration import register

SEGMENTS = "sparsepo_segments"


def segment_inputs(batch: PackedBatch) -> dict[str, Any]:
    """What `segment_attention` is told of a micro-batch, the same for every layer of a forward pass.

    Returns:
        sizes: tokens of each segment; prompts: of each segment, None, or how many tokens of the segment before it are
        the prompt that it shares; masks: of each segment, None where it is causal, else [its tokens, prompt + its
        tokens] bool.
    """
    assert batch.attention is not None
    sizes: list[int] = []
    prompts: list[int | None] = []
    for span in batch.attention.spans:
        sizes.append(span.prompt + span.response)
        prompts.append(None)
        if span.rejected:
            sizes.append(span.rejected)
            prompts.append(span.prompt)
    device = batch.input_ids.device
    masks = [None if p is None else _behind(p, size, device) for p, size in zip(prompts, sizes, strict=True)]
    return {"sizes": sizes, "prompts": prompts, "masks": masks}


def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any], *, scaling: float | None, dropout: float
) -> Tensor:
    """Attention of each sequence: [1, H, T, d] in (fewer heads in key and value: grouped queries), [1, T, H, d] out."""
    grouped = query.shape[1] != key.shape[1]
    sizes, prompts, masks = (told[name] for name in ("sizes", "prompts", "masks"))
    # Split, not sliced: a slice's gradient is as large as the whole that it was taken from.
    queries, keys, values = (states.split(sizes, 2) for states in (query, key, value))
    attended = []
    for number, (prompt, mask) in enumerate(zip(prompts, masks, strict=True)):
        seen_key, seen_value = keys[number], values[number]
        if prompt is not None:
            seen_key, seen_value = (
                torch.cat((parts[number - 1][:, :, :prompt], parts[number]), 2) for parts in (keys, values)
            )
        attended.append(
            F.scaled_dot_product_attention(
                queries[number], seen_key, seen_value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None,
                scale=scaling, enable_gqa=grouped,
            ).transpose(1, 2)
        )  # fmt: skip
    return torch.cat(attended, 1)


def _behind(prompt: int, tokens: int, device: torch.device) -> Tensor:
    """[tokens, prompt + tokens] bool: a response sees all of its prompt, and itself up to each token."""
    return torch.ones(tokens, prompt + tokens, dtype=torch.bool, device=device).tril(prompt)


register(SEGMENTS, segment_attention)

"""SDPA over one sequence after the other of the packed layouts: nothing is padded, and what is causal has no mask.

A prompt and the response behind it are one causal sequence; a rejected response that shares the prompt attends to
prompt and itself in a call of its own. Many small calls suit CPUs.

Shapes: T packed tokens, H heads, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.attention.reach import FULL, Reach
from sparsepo_dist.engines.attention.registration import register
from sparsepo_dist.engines.attention.terms import Terms, attended_block

SEGMENTS = "sparsepo_segments"


def segment_inputs(batch: PackedBatch, reach: Reach = FULL) -> dict[str, Any]:
    """What `segment_attention` is told of a micro-batch, the same for all layers of one reach in a forward pass.

    Returns:
        sizes: tokens of each segment; prompts: of each segment, None, or how many tokens of the segment before it are
        the prompt that it shares; masks: of each segment, None where it is causal without limit, else [its tokens,
        prompt + its tokens] bool.
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
    masks = [_mask(prompt, size, reach, device) for prompt, size in zip(prompts, sizes, strict=True)]
    return {"sizes": sizes, "prompts": prompts, "masks": masks}


def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any], *, scaling: float | None, dropout: float,
    terms: Terms,
) -> Tensor:  # fmt: skip
    """Attention of each sequence: [1, H, T, d] in (fewer heads in key and value: grouped queries), [1, T, H, d] out."""
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
        part = attended_block(
            queries[number], seen_key, seen_value, mask, scaling=scaling, dropout=dropout, terms=terms
        )
        attended.append(part.transpose(1, 2))
    return torch.cat(attended, 1)


def _mask(prompt: int | None, tokens: int, reach: Reach, device: torch.device) -> Tensor | None:
    """[tokens, prompt + tokens] bool: a response sees its prompt, and itself up to each token, as far as layers reach;
    None for a sequence that is causal and no more."""
    before = prompt or 0
    limited = reach.limits(before + tokens)
    if prompt is None and not limited:
        return None
    sees = torch.ones(tokens, before + tokens, dtype=torch.bool, device=device).tril(before)
    if limited:
        position = torch.arange(before + tokens, device=device)
        sees &= position >= reach.first(position[before:])[:, None]
    return sees


register(SEGMENTS, segment_attention)

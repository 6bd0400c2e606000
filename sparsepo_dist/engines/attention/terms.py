"""What models add to plain attention besides a window: sinks, and a soft cap of the scores.

Shapes: H heads (fewer in keys and values: grouped queries), Q queries, K keys, d head width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

from sparsepo_dist.engines.attention.reach import REMEDY
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.errors import UserError

_WIDTH_STEP = 8  # SDPA's kernels on GPUs take heads of a multiple of that


class Terms(NamedTuple):
    """What a layer adds to plain attention."""

    softcap: float | None = None
    """c: a score s counts as c tanh(s / c), before anything is masked."""
    sinks: Tensor | None = None
    """[H]: a score for each head that takes part in every softmax, and has no value."""


PLAIN = Terms()


def attended_block(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float | None, dropout: float,
    terms: Terms,
) -> Tensor:  # fmt: skip
    """Attention of blocks that are padded to one size: [B, H, Q, d], [B, H, K, d] in, [B, H, Q, d of values] out.

    `mask` is bool, and broadcasts to [B, 1, Q, K]; without one attention is causal.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if terms.softcap is not None:
        return _capped(query, key, value, mask, scale, dropout, terms)
    sinks, width, queries = terms.sinks, value.shape[-1], query.shape[2]
    if sinks is not None:
        query, key, value, mask = _with_sinks(query, key, value, mask, sinks / scale)
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    # A slice that leaves nothing out still costs a copy in backward.
    return attended if sinks is None else attended[:, :, -queries:, :width]


def _with_sinks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, sinks: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The same with one more key in front, whose score is the sink's and whose value is 0, so that SDPA's kernels
    compute sinks and their gradients: queries get the sink as one more feature, which is 1 in that key and 0 in others.

    Values get as wide, which kernels for grouped queries ask for. Without a mask there is one more query too, in front,
    so that attention stays causal.
    """
    query = F.pad(query, (0, _WIDTH_STEP, int(mask is None), 0))
    key, value = (F.pad(states, (0, _WIDTH_STEP, 1, 0)) for states in (key, value))
    query[..., -_WIDTH_STEP] = sinks.to(query.dtype)[:, None]
    key[:, :, 0, -_WIDTH_STEP] = 1
    return query, key, value, None if mask is None else F.pad(mask, (1, 0), value=True)


def _capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float, terms: Terms
) -> Tensor:
    """Block by block, each computed again in backward: no kernel has a soft cap, and scores of one block at a time are
    what it costs."""
    if mask is None:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    mask = mask.expand(len(query), 1, query.shape[2], key.shape[2])
    parts = []
    for block in range(len(query)):
        arguments = (query[block], key[block], value[block], mask[block], scale, dropout, terms.softcap, terms.sinks)
        parts.append(checkpoint(_capped_scores, *arguments, use_reentrant=False, preserve_rng_state=dropout > 0))
    return torch.stack(parts)


def _capped_scores(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, dropout: float, cap: float,
    sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """[H, Q, d] of one block, its softmax in float32 or wider."""
    groups = query.shape[0] // key.shape[0]
    key, value = (states.repeat_interleave(groups, 0) for states in (key, value))
    scores = query @ key.transpose(1, 2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
    scores = (cap * torch.tanh(scores / cap)).masked_fill(~mask, -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.to(scores.dtype)[:, None, None].expand(-1, scores.shape[1], 1)), -1)
    weights = scores.softmax(-1)[..., : key.shape[1]].to(value.dtype)
    return F.dropout(weights, dropout) @ value


WITH_SINKS = frozenset((
    "deepseek_v4", "flint", "gpt_oss", "granite_swa", "granitemoe_swa", "hy_v4", "mimo_v2_flash",
))  # fmt: skip
"""Families, by model_type, whose layers have sinks: what kernels without them cannot be chosen for."""

# By model_type: what only a family's own attention does. Most would be refused by their first batch; here, before.
_OWN = {
    "axk2": "selects keys by an index", "deepseek_v32": "selects keys by an index",
    "deepseek_v4": "compresses keys", "doge": "selects keys by a mask of its own",
    "dots3_note": "selects keys by an index", "dots3_note_text": "selects keys by an index",
    "glm_moe_dsa": "selects keys by an index", "hy_v4": "selects keys by an index",
    "inkling2_text": "has a bias by packed places", "inkling_text": "has a bias by packed places",
    "minimax_m3_vl_text": "selects blocks of keys", "nemotron": "is handed no arguments",
}  # fmt: skip


def against_packing(config: PretrainedConfig) -> str | None:
    """Why a model's attention is right in the layout `padded` alone, as far as its family says; None if nothing is."""
    config = text_config(config)
    why = _OWN.get(config.model_type)
    return None if why is None else f"the attention of a {config.model_type} model {why}"


# What transformers' models pass to attention besides, and that changes nothing of what is computed here: the window,
# which its mask says as well; positions, which are in queries and keys by then; what callers want returned.
_HARMLESS = {
    "sliding_window", "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states",
    "output_router_logits", "return_dict",
}  # fmt: skip


def check_arguments(query: Tensor, key: Tensor, attention_mask: Any, others: dict[str, Any]) -> None:
    """Refuse what a model hands to its attention and that would be left out.

    Raises:
        UserError: a mask of the model's own, keys that are not those of the batch's tokens, or an argument that is not
            known to be harmless.
    """
    if isinstance(attention_mask, Tensor):
        raise UserError(f"data.layout: this model gives its attention a mask of its own; {REMEDY}")
    if key.shape[2] != query.shape[2]:
        raise UserError(f"data.layout: this model's attention has other keys than those of its tokens; {REMEDY}")
    unknown = sorted(name for name, value in others.items() if value is not None and name not in _HARMLESS)
    if others.get("is_causal") is True:
        unknown.remove("is_causal")
    if unknown:
        raise UserError(
            f"data.layout: this model's attention has {', '.join(unknown)}, which only its own attention computes; "
            f"{REMEDY}"
        )

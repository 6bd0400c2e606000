"""What the packed layouts' attention functions have in common: how transformers calls them.

Shapes: T packed tokens, H heads, d head width.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface

from sparsepo_dist.errors import UserError
from sparsepo_dist.masks.hooks import RECORDED_ATTENTIONS, see_attention


class PackedAttention(Protocol):
    """Attention between the tokens of a micro-batch."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any], *, scaling: float | None, dropout: float
    ) -> Tensor:
        """[1, H, T, d] in (fewer heads in key and value: grouped queries), [1, T, H, d] out; `told` of the batch."""


def register(name: str, attend: PackedAttention) -> None:
    """Make an attention function known to transformers by a name, which models are loaded with as
    `attn_implementation`; masks can record its queries and keys.

    Called, it raises UserError for a term that a model adds to plain attention and that would be left out.
    """

    def called(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        attention_blocks: dict[str, Any],
        scaling: float | None = None,
        dropout: float = 0.0,
        **others: Any,
    ) -> tuple[Tensor, None]:
        see_attention(module, query, key)
        _refuse_terms(others)
        return attend(query, key, value, attention_blocks, scaling=scaling, dropout=dropout), None

    AttentionInterface.register(name, called)
    RECORDED_ATTENTIONS.add(name)


def _refuse_terms(terms: dict[str, Any]) -> None:
    added = [name for name in ("softcap", "s_aux", "position_bias") if terms.get(name) is not None]
    if added:
        raise UserError(
            f"data.layout: this model's attention has {', '.join(added)}, which only its own attention computes; say "
            "--data.layout padded"
        )

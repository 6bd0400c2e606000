"""What the packed layouts' attention functions have in common: how transformers calls them.

Shapes: T packed tokens, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.attention.reach import REMEDY, Reach, longest_sequence, register_reach
from sparsepo_dist.engines.attention.terms import Terms, check_arguments
from sparsepo_dist.engines.sequence.exchange import attended_in_group
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks.hooks import RECORDED_ATTENTIONS, see_attention


class PackedAttention(Protocol):
    """Attention between the tokens of a micro-batch."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any], *, scaling: float | None, dropout: float,
        terms: Terms,
    ) -> Tensor:  # fmt: skip
        """[1, H, T, d] in (fewer heads in key and value: grouped queries), [1, T, H, d] out; `told` of the batch."""


class Told:
    """What an attention function is told of a micro-batch: made once a forward pass for each reach of the layers."""

    def __init__(self, batch: PackedBatch, inputs: Callable[[PackedBatch, Reach], dict[str, Any]]) -> None:
        assert batch.attention is not None
        self._batch, self._inputs = batch, inputs
        self.share, self.tokens = batch.share, len(batch.input_ids)
        self._longest = longest_sequence(batch.attention.spans)
        self._made: dict[Reach, dict[str, Any]] = {}

    def of(self, reach: Reach) -> dict[str, Any]:
        """What layers of a reach are told."""
        reach = reach.within(self._longest)
        if reach not in self._made:
            self._made[reach] = self._inputs(self._batch, reach)
        return self._made[reach]


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
        attention_mask: Reach | Tensor | None,
        *,
        attention_blocks: Told | None = None,
        scaling: float | None = None,
        dropout: float = 0.0,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        see_attention(module, query, key)
        check_arguments(query, key, attention_mask, others)
        if attention_blocks is None or not isinstance(attention_mask, Reach):
            raise UserError(f"data.layout: this model does not hand on what its attention is to see; {REMEDY}")
        told = attention_blocks.of(attention_mask)

        def attend_all(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None) -> Tensor:
            return attend(query, key, value, told, scaling=scaling, dropout=dropout, terms=Terms(softcap, sinks))

        if attention_blocks.share is None:
            attended = attend_all(query, key, value, s_aux)
        else:
            share, tokens = attention_blocks.share, attention_blocks.tokens
            attended = attended_in_group(attend_all, share, tokens, query, key, value, s_aux)
        return attended.contiguous(), None  # as transformers' own functions return it: some models take views of it

    AttentionInterface.register(name, called)
    register_reach(name)
    RECORDED_ATTENTIONS.add(name)

"""A model is made right in a layout, and told of every batch before it runs."""

from __future__ import annotations

from typing import Any, Protocol

from transformers import PreTrainedModel

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.layouts.families import ATTENTION_LAYERS, MIXERS
from sparsepo_dist.engines.layouts.mixers import ByRows
from sparsepo_dist.engines.layouts.rotary import RotaryBySequence, longest_short
from sparsepo_dist.errors import UserError


class Part(Protocol):
    """What of a model has to know the batch."""

    def begin(self, batch: PackedBatch | None) -> None:
        """Go by this batch from here on, through the forward pass that begins and what backward runs of it again;
        None for a forward pass of plain rows."""


class NextBatch:
    """The batch that was named for the next forward pass, until it begins; one of which nobody tells is plain."""

    def __init__(self, parts: list[Part]) -> None:
        self.batch: PackedBatch | None = None
        self._parts = parts

    def begin(self, *_: Any) -> None:
        """The hook before a forward pass."""
        batch, self.batch = self.batch, None
        for part in self._parts:
            part.begin(batch)


def prepare(base: PreTrainedModel, layout: Layout) -> None:
    """Have a decoder's mixers run by rows and its rotary embeddings chosen by sequence, where it has such; in place.

    Raises:
        UserError: its mixers are not found: the installed transformers has others.
    """
    text = text_config(base.config)
    mixers, longest = MIXERS.get(text.model_type), longest_short(text)
    parts: list[Part] = []
    if mixers is not None and layout != "padded":
        by_rows = ByRows(base, mixers.split())
        if not by_rows.mixers and not {*(getattr(text, "layer_types", None) or ("unknown",))} <= ATTENTION_LAYERS:
            raise UserError(
                f"data.layout {layout}: no {mixers} is found in a {text.model_type} model as the installed "
                "transformers has it; say --data.layout padded"
            )
        parts.append(by_rows)
    if longest is not None and layout != "prefix_shared":
        parts.append(RotaryBySequence(base, longest))
    if parts:
        told: Any = NextBatch(parts)
        base.told = told
        base.register_forward_pre_hook(told.begin)


def tell(base: PreTrainedModel, batch: PackedBatch) -> None:
    """Name the batch of the decoder's next forward pass."""
    told = getattr(base, "told", None)
    if told is not None:
        told.batch = batch

"""Whether a model can have its packed tokens on several ranks: it can where tokens meet in our attention alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.layouts.choice import ModelKind
from sparsepo_dist.engines.layouts.families import MIXERS
from sparsepo_dist.engines.layouts.rotary import longest_short
from sparsepo_dist.engines.sequence.group import check_heads
from sparsepo_dist.errors import UserError


def check_splitting(models: Mapping[str, ModelKind], layout: Layout, ranks: int) -> None:
    """Hold `training.sequence_parallel` against the models of a run, by the field that names each.

    Raises:
        UserError: a model, or the layout, is not right with so many ranks.
    """
    if ranks == 1:
        return
    if layout == "padded":
        raise UserError(
            "training.sequence_parallel: data.layout padded uses the models' own attention, which knows of no other "
            "ranks; say --data.layout prefix_shared or packed, or --training.sequence_parallel 1"
        )
    for field, model in models.items():
        text: Any = text_config(model.config)
        hindered = _hindrance(model, text, layout)
        if hindered is not None:
            raise UserError(
                f"training.sequence_parallel: of a {text.model_type} model ({field}), {hindered}; say "
                "--training.sequence_parallel 1"
            )
        check_heads(ranks, text.num_attention_heads, field)


def _hindrance(model: ModelKind, text: Any, layout: Layout) -> str | None:
    """Why a model needs all tokens of a sequence on one rank; None where it does not."""
    if text.model_type in MIXERS:
        return "layers besides attention carry a state from token to token"
    if not getattr(model.made_by, "_supports_attention_backend", False):
        return "attention is its own, and not called by transformers' attention interface, which exchanges tokens"
    if layout != "prefix_shared" and longest_short(text) is not None:
        return "positions are encoded by the length of their sequence in this layout"
    return None

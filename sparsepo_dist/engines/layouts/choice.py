"""Which layout a run gets: the cheapest that all of its models are right in, or the one that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, get_args

from transformers import PretrainedConfig

from sparsepo_dist.data.config import Layout, LayoutName
from sparsepo_dist.engines.attention.inputs import windows
from sparsepo_dist.engines.attention.terms import against_packing
from sparsepo_dist.engines.composite import decoder_class, text_config
from sparsepo_dist.engines.layouts.families import ATTENTION_LAYERS, MIXERS, ONLY_PADDED
from sparsepo_dist.engines.layouts.rotary import longest_short
from sparsepo_dist.errors import UserError


class ModelKind(NamedTuple):
    """What decides the layouts that a model is right in."""

    config: PretrainedConfig
    made_by: type
    """The class that decides its attention: the text decoder's in a composite."""

    @classmethod
    def of(cls, config: PretrainedConfig) -> ModelKind:
        """The kind of the model that a configuration describes."""
        return cls(config, decoder_class(config))


class ChosenLayout(NamedTuple):
    """A layout, and why it is not the cheapest."""

    layout: Layout
    why: str | None = None


def layout_of(wanted: LayoutName, models: Mapping[str, ModelKind], max_length: int) -> ChosenLayout:
    """The layout of a run.

    Args:
        wanted: `data.layout` as configured.
        models: the policy and every frozen model, by the field that names it.
        max_length: most tokens of prompt + response.

    Raises:
        UserError: a layout was asked for by name that a model is not right in, or it is right in none.
    """
    hindrances = {layout: _hindrance(models, layout, max_length) for layout in get_args(Layout)}
    right = [layout for layout, hindrance in hindrances.items() if hindrance is None]
    if not right:
        raise UserError(f"data.layout: none is right: {hindrances['padded']}")
    if wanted == "auto":
        return ChosenLayout(right[0], hindrances["prefix_shared"])
    if hindrances[wanted] is not None:
        raise UserError(
            f"data.layout {wanted}: {hindrances[wanted]}. Right is {' or '.join(right)}; --data.layout auto chooses"
        )
    return ChosenLayout(wanted)


def _hindrance(models: Mapping[str, ModelKind], layout: Layout, max_length: int) -> str | None:
    for field, model in models.items():
        why = _wrong_in(model, layout, max_length)
        if why is not None:
            return f"of a {model.config.model_type} model ({field}), {why}"
    return None


def _wrong_in(model: ModelKind, layout: Layout, max_length: int) -> str | None:
    """Why a model is not right in a layout; None where it is. Padded, every sequence has a row of its own."""
    text = text_config(model.config)
    kept = getattr(text, "keep_window_size", None)
    if kept and max_length > kept:
        return f"keys are selected by the length of their row beyond {kept} tokens, and data.max_length is {max_length}"
    if layout == "padded":
        return None
    kind: str = text.model_type
    hindered = ONLY_PADDED.get(kind) or against_packing(text)
    if hindered is not None:
        return hindered
    others = sorted({*(getattr(text, "layer_types", None) or ())} - ATTENTION_LAYERS)
    if kind not in MIXERS and (others or getattr(model.made_by, "_is_stateful", False)):
        return f"the {', '.join(others) or 'recurrent'} layers may carry a state from one packed sequence into the next"
    narrowest = _window(model, text)
    if narrowest is not None and max_length > narrowest:
        return (
            f"attention reaches {narrowest} tokens, by a mask of the model's own, and data.max_length is {max_length}"
        )
    if layout != "prefix_shared":
        return None
    short = longest_short(text)
    if short is not None and max_length > short:
        return f"positions are encoded otherwise in sequences longer than {short}, and data.max_length is {max_length}"
    return None


def _window(model: ModelKind, text: PretrainedConfig) -> int | None:
    """The narrowest window of attention that only the model's own masks have; None where there is none.

    Attention of ours has every window.
    """
    if getattr(model.made_by, "_supports_attention_backend", False):
        return None
    return min(windows(text).values(), default=None)

"""Which activations of a reference are read for activation masks. Site types: mlp, attention, residual (and logits)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from sparsepo_dist.errors import UserError
from sparsepo_dist.masks.config import MaskConfig
from sparsepo_dist.masks.decoder import (
    attention_of,
    decoder_blocks,
    feed_forward_of,
    has_rotary,
    norms_of,
    output_projection,
    query_key_value,
)
from sparsepo_dist.masks.hooks import RECORDED_ATTENTIONS, Site

_Finder = Callable[[str, nn.Module, Any], list[Site]]


def activation_sites(model: nn.Module, config: MaskConfig) -> list[Site]:
    """Sites inside a decoder, by type in the order of `MaskConfig.read_types`.

    The final norm's output and the logits, which `released` has besides, are no sites of a module's.

    Raises:
        UserError: a part is not recognised, a pattern matches no module (the modules are listed), or the model's
            attention does not show queries and keys after rotary.
    """
    sites = []
    for kind in config.read_types:
        if kind in config.site_patterns:
            sites += _matching(model, kind, config.site_patterns[kind])
        elif kind != "logits":
            blocks = decoder_blocks(model)
            if (config.sites, kind) == ("released", "residual"):
                sites.append(Site(kind, "embedding", blocks[0], "input"))
            finder = _FINDERS[config.sites, kind]
            for number, block in enumerate(blocks):
                sites += finder(f"block {number}: ", block, model)
    return sites


def _matching(model: nn.Module, kind: str, pattern: str) -> list[Site]:
    named = {name: module for name, module in model.named_modules() if name}
    sites = [Site(kind, name, module, "output") for name, module in named.items() if re.fullmatch(pattern, name)]
    if not sites:
        names = dict.fromkeys(re.sub(r"\d+", "N", name) for name in named)
        raise UserError(f"masks.site_patterns: {pattern!r} matches no module of the decoder: {', '.join(names)}")
    return sites


def _attention_output(name: str, block: nn.Module, _: Any) -> list[Site]:
    return [Site("attention", f"{name}attention", attention_of(block), "output")]


def _feed_forward_output(name: str, block: nn.Module, _: Any) -> list[Site]:
    return [Site("mlp", f"{name}feed-forward", feed_forward_of(block), "output")]


def _block_output(name: str, block: nn.Module, _: Any) -> list[Site]:
    return [Site("residual", f"{name}output", block, "output")]


def _after_activation_function(name: str, block: nn.Module, model: Any) -> list[Site]:
    """What the feed-forward's last linear reads: the activated values, times `up` where the feed-forward is gated."""
    down = output_projection(feed_forward_of(block), model.config.hidden_size)
    return [Site("mlp", f"{name}feed-forward, activated", down, "input")]


def _attention_inside(name: str, block: nn.Module, model: Any) -> list[Site]:
    """Query, key, value; query and key after rotary, if there is any; attention's output before its projection."""
    attention = attention_of(block)
    sites = [
        Site("attention", f"{name}{part}", module, "output", split, 1 if split is None else 3)
        for part, module, split in query_key_value(attention)
    ]
    if has_rotary(model, attention):
        implementation = model.config._attn_implementation
        if implementation not in RECORDED_ATTENTIONS and not hasattr(attention, "_attn"):
            raise UserError(
                "masks.sites: released reads queries and keys after rotary, which attention "
                f"{implementation!r} does not show; set data.layout to prefix_shared or packed, or leave attention "
                "out of masks.site_types"
            )
        sites.append(Site("attention", f"{name}query and key after rotary", attention, "query_key", parts=2))
    projection = output_projection(attention, model.config.hidden_size)
    return [*sites, Site("attention", f"{name}attention before its projection", projection, "input")]


def _residual_stream(name: str, block: nn.Module, _: Any) -> list[Site]:
    """Block input, which the attention norm reads; outputs of the norms, as attention and feed-forward read them;
    what attention and feed-forward add; block output."""
    attention, feed_forward = attention_of(block), feed_forward_of(block)
    sites = [
        Site("residual", f"{name}input", block, "input"),
        Site("residual", f"{name}attention's norm", attention, "input"),
        Site("residual", f"{name}attention", attention, "output"),
    ]
    if norms_of(block) > 1:
        sites.append(Site("residual", f"{name}feed-forward's norm", feed_forward, "input"))
    return [
        *sites,
        Site("residual", f"{name}feed-forward", feed_forward, "output"),
        Site("residual", f"{name}output", block, "output"),
    ]


_FINDERS: dict[tuple[str, str], _Finder] = {
    ("paper", "mlp"): _feed_forward_output,
    ("paper", "attention"): _attention_output,
    ("paper", "residual"): _block_output,
    ("released", "mlp"): _after_activation_function,
    ("released", "attention"): _attention_inside,
    ("released", "residual"): _residual_stream,
}

"""Which attention a model is loaded with: a rule that is settled before training, from what is known by then."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.attention.blockwise import BLOCKWISE
from sparsepo_dist.engines.attention.flex import FLEX, Heads, flex_failure
from sparsepo_dist.engines.attention.reach import REMEDY
from sparsepo_dist.engines.attention.segments import SEGMENTS
from sparsepo_dist.engines.attention.terms import WITH_SINKS, against_packing
from sparsepo_dist.engines.attention.varlen import VARLEN, flash_attn_installed
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.config import AttentionName
from sparsepo_dist.errors import UserError

log = logging.getLogger(__name__)

CPU = torch.device("cpu")

_KERNEL_DTYPES = (torch.bfloat16, torch.float16)
_FLEX_NARROWEST, _FLASH_WIDEST = 16, 256  # heads that the kernels have
_FLASH_OLDEST = (8, 0)  # compute capability: Ampere


@dataclass(frozen=True)
class AttentionSetting:
    """What decides a model's attention, besides the model and the layout."""

    name: AttentionName = "auto"
    """What the user asked for (`model.attention`)."""
    device: torch.device = CPU
    """Where the model runs."""
    dropout: bool = False
    """Whether it trains with dropout of its own."""
    present: bool = True
    """Whether that device is here to be asked; a plan is made without."""


def attention_implementation(
    config: PretrainedConfig, model_class: type, layout: Layout, dtype: torch.dtype, setting: AttentionSetting
) -> str:
    """The `attn_implementation` that a model is loaded with; no GPU is tried out.

    The layout `padded` and models without transformers' attention interface keep their own. Otherwise as asked for, or
    where that is `auto`: on CPUs SDPA by sequence; elsewhere FlashAttention for `packed`, FlexAttention for the rest
    and wherever FlashAttention cannot be, block-wise SDPA where neither can.

    Raises:
        UserError: what was asked for by name cannot be, or the layout; the message says why.
    """
    hindered = against_packing(config) if layout != "padded" else None
    if hindered is not None:
        raise UserError(f"data.layout {layout}: {hindered}; {REMEDY}")
    own = layout == "padded" or not getattr(model_class, "_supports_attention_backend", False)
    if own and setting.name != "auto":
        why = "data.layout padded uses" if layout == "padded" else f"a {config.model_type} model takes none but"
        raise UserError(f"model.attention {setting.name}: {why} the model's own attention; leave it at auto")
    if own:
        return "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"
    if setting.name == "blockwise":
        return BLOCKWISE
    if setting.name == "auto" and setting.device.type == "cpu":
        return SEGMENTS
    hindrances = {
        "flash": (VARLEN, _against_flash(config, layout, dtype, setting)),
        "flex": (FLEX, _against_flex(config, dtype, setting)),
    }
    if setting.name != "auto":
        implementation, hindrance = hindrances[setting.name]
        if hindrance is not None:
            raise UserError(f"model.attention {setting.name}: {hindrance}; leave it at auto")
        return implementation
    possible = [implementation for implementation, hindrance in hindrances.values() if hindrance is None]
    return (*possible, BLOCKWISE)[0]


def tried_attention(
    config: PretrainedConfig, model_class: type, layout: Layout, dtype: torch.dtype, setting: AttentionSetting
) -> str:
    """As `attention_implementation`, after trying out a compiled kernel on the GPU; the same device answers at once
    when it is asked again.

    Raises:
        UserError: as there; or FlexAttention was asked for by name and does not run.
    """
    implementation = attention_implementation(config, model_class, layout, dtype, setting)
    if setting.device.type == "cpu" or implementation not in (FLEX, BLOCKWISE):
        return implementation
    why = _against_flex(config, dtype, setting) if implementation == BLOCKWISE else None
    if implementation == FLEX:
        why = flex_failure(attention_heads(config), dtype, setting.device)
        if why is not None and setting.name == "flex":
            raise UserError(f"model.attention flex: it does not run on {setting.device} ({why}); say blockwise or auto")
    if why is None or setting.name == "blockwise":
        return implementation
    log.warning("attention is block-wise, slower than FlexAttention, which cannot be used: %s", why)
    return BLOCKWISE


def _against_flex(config: PretrainedConfig, dtype: torch.dtype, setting: AttentionSetting) -> str | None:
    """Why FlexAttention cannot be, as far as that is known without running it; None if nothing is."""
    if setting.device.type == "cpu":
        return "FlexAttention computes no gradient on CPUs"
    if setting.dropout and has_dropout(config):
        return "FlexAttention has no dropout, which model.disable_dropout false leaves on"
    if dtype not in (*_KERNEL_DTYPES, torch.float32):
        return f"FlexAttention does not take {dtype}"
    if attention_heads(config).width < _FLEX_NARROWEST:
        return f"FlexAttention takes no heads narrower than {_FLEX_NARROWEST}"
    return None


def _against_flash(
    config: PretrainedConfig, layout: Layout, dtype: torch.dtype, setting: AttentionSetting
) -> str | None:
    """Why FlashAttention's variable lengths cannot be; None if nothing is against them."""
    if layout != "packed":
        return f"FlashAttention knows no blocks that two responses share, which data.layout {layout} has"
    if setting.device.type == "cpu":
        return "FlashAttention runs on GPUs only"
    if not flash_attn_installed():
        return "the package flash-attn is not installed"
    if dtype not in _KERNEL_DTYPES:
        return f"FlashAttention takes bf16 and fp16, not {dtype}"
    if attention_heads(config).width > _FLASH_WIDEST or getattr(text_config(config), "v_head_dim", None) is not None:
        return f"FlashAttention takes heads up to {_FLASH_WIDEST} wide, values as wide as queries"
    if text_config(config).model_type in WITH_SINKS:
        return "FlashAttention has no attention sinks"
    if setting.present and torch.cuda.get_device_capability(setting.device) < _FLASH_OLDEST:
        return "FlashAttention needs a GPU of compute capability 8.0 or newer"
    return None


def has_dropout(config: PretrainedConfig) -> bool:
    """Whether a model has a dropout of its own anywhere; not all models say which of theirs is the attention's."""
    rates = text_config(config).to_dict()
    return any("drop" in name and isinstance(rate, float) and rate > 0 for name, rate in rates.items())


def attention_heads(config: PretrainedConfig) -> Heads:
    """The shape of a model's attention."""
    text: Any = text_config(config)
    queries = text.num_attention_heads
    keys = getattr(text, "num_key_value_heads", None) or queries
    return Heads(queries, keys, getattr(text, "head_dim", None) or text.hidden_size // queries)

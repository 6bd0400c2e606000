"""Models without weights: modules and shapes on the meta device."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.adapters import add_adapters
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.loading import attention_for


def empty_model(
    config: PretrainedConfig, dtype: torch.dtype, layout: Layout, *, trust_remote_code: bool
) -> PreTrainedModel:
    """The model that a configuration describes, with the attention that a layout gets."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            attn_implementation=attention_for(config, layout),
            trust_remote_code=trust_remote_code,
        )


def adapt(model: PreTrainedModel, settings: LoraSettings, dtype: torch.dtype) -> None:
    """Put an adapter on a model and freeze the rest, as training does.

    Raises:
        UserError: targets that fit nothing.
    """
    with torch.device("meta"):
        add_adapters(model, settings, dtype, base="", start=None, reference=None)

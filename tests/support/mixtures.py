"""Tiny mixtures of experts, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GraniteMoeConfig,
    JetMoeConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from tests.support.tiny import VOCABULARY, save_drawn

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256, "bos_token_id": 256,
    "eos_token_id": 257, "pad_token_id": None,
}  # fmt: skip
_WIDE = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
MIXTURES: dict[str, PretrainedConfig] = {
    "gpt_oss": GptOssConfig(
        **_SHAPE, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=256,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "granitemoe": GraniteMoeConfig(**_SHAPE, num_local_experts=4, num_experts_per_tok=2),
    "jetmoe": JetMoeConfig(**_SHAPE, kv_channels=8, num_local_experts=4, num_experts_per_tok=2),
    "mixtral": MixtralConfig(**_SHAPE, num_local_experts=4, num_experts_per_tok=2),
    "olmoe": OlmoeConfig(**_SHAPE, num_experts=4, num_experts_per_tok=2),
    "qwen2_moe": Qwen2MoeConfig(**_SHAPE, **_WIDE, shared_expert_intermediate_size=16),
    "qwen3_moe": Qwen3MoeConfig(**_SHAPE, **_WIDE, head_dim=8),
}  # fmt: skip


def save_mixture(folder: Path, family: str, **settings: Any) -> Path:
    """A model folder; `settings` change its configuration."""
    config = type(MIXTURES[family]).from_dict({**MIXTURES[family].to_dict(), **settings})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return save_drawn(model, folder)

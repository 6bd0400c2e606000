"""Every causal language model that the installed transformers knows, as a few narrow random layers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sparsepo_dist.engines.decoder.miniature import miniature
from tests.support.tiny import draw_weights

HEADS = {"head_dim": 16}
# What a family's own defaults leave out, or what makes them too large.
INCOMPLETE: dict[str, dict[str, Any]] = {
    "DbrxConfig": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "DeepseekV2Config": {"num_experts_per_tok": 2},
    "Dots1Config": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "HunYuanDenseV1Config": HEADS,
    "HunYuanMoEV1Config": HEADS,
    "MinistralConfig": HEADS,
    "NemotronConfig": {"num_key_value_heads": 2},
    "CohereCompassTextConfig": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "Qwen4ExpTextConfig": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 256, "indexer_budget": 512,
        "indexer_compress_ratio": 64,
    },
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"] * 16},
}  # fmt: skip


_WAKEFUL = {
    re.compile(r"soft_?cap"): 5.0,
    re.compile(r"(logit|head)s?_(scale|scaling|multiplier)"): 0.5,
    re.compile(r"^(sliding_window(_size)?|attention_window_size|window_size|local_attention|attention_chunk_size)$"): 8,
    re.compile("^index_topk$"): 4,
}
NOT_BUILT: dict[str, str] = {
    **dict.fromkeys(
        ["BltConfig", "Emu3Config", "GitConfig", "MllamaConfig", "Phi4MultimodalConfig", "Qwen4ExpConfig"],
        "text is one part of a composite that the miniature does not make smaller",
    ),
    **dict.fromkeys(["MusicgenConfig", "MusicgenMelodyConfig"], "makes sounds; it has several decoders of text"),
    "Gemma4AssistantConfig": "its own defaults are refused by its own check",
    "ReformerConfig": "its own defaults make an encoder",
    "XmodConfig": "wants a language to be chosen",
}
"""By the name of their configuration, families of which no miniature is made, and why."""


def families() -> Iterator[type[PretrainedConfig]]:
    """Configuration classes of the auto class for causal language models, each once."""
    known = dict.fromkeys(AutoModelForCausalLM._model_mapping.keys())
    yield from (family for family in known if family.__module__.startswith("transformers."))  # others are tests' own


def tiny_config(family: type[PretrainedConfig]) -> PretrainedConfig:
    """The miniature of a family's default configuration, with windows shorter than sequences are, and with every cap
    and scale of logits on."""
    small = miniature(family(**INCOMPLETE.get(family.__name__, {})))
    fields = {k: v for k, v in small.to_dict().items() if k not in ("architectures", "model_type", "dtype")}
    return type(small)(**{**fields, **_wakeful(fields)})


def tiny_model(config: PretrainedConfig, **options: Any) -> PreTrainedModel:
    """A float32 model with weights large enough for what it leaves out or adds to be seen."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options)
    draw_weights(model)
    return model.eval()


def _wakeful(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: awake
        for name, value in fields.items()
        for pattern, awake in _WAKEFUL.items()
        if pattern.search(name) and not isinstance(value, bool) and isinstance(value, int | float | None)
    }

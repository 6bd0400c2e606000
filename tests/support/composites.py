"""Tiny composite models, of a text decoder and a vision tower, with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma3Config,
    Llama4Config,
    LlamaConfig,
    LlavaConfig,
    Mistral3Config,
    PretrainedConfig,
    Qwen2_5_VLConfig,
    Qwen3_5Config,
)

from tests.support.tiny import VOCABULARY, save_drawn

_TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256, "bos_token_id": 256,
    "eos_token_id": 257,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_QWEN_VISION = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14,
}  # fmt: skip
_QWEN_TOKENS = {
    "image_token_id": 258, "video_token_id": 259, "vision_start_token_id": 260, "vision_end_token_id": 261,
}  # fmt: skip
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 16,
}  # fmt: skip

COMPOSITES: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma3": lambda: Gemma3Config(
        text_config={**_TEXT, "head_dim": 8, "sliding_window": 512, "query_pre_attn_scalar": 8}, vision_config=_VISION,
        mm_tokens_per_image=4, boi_token_index=260, eoi_token_index=261, image_token_index=258,
    ),
    "llama4": lambda: Llama4Config(
        text_config={
            **_TEXT, "head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2, "num_experts_per_tok": 1,
        },
        vision_config={**_VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
    ),
    "llava": lambda: LlavaConfig(
        text_config=LlamaConfig(**_TEXT), vision_config=CLIPVisionConfig(**_VISION), image_token_index=258
    ),
    "mistral3": lambda: Mistral3Config(
        text_config={**_TEXT, "model_type": "mistral", "head_dim": 8}, tie_word_embeddings=False,
        vision_config={**_VISION, "model_type": "pixtral", "head_dim": 8}, image_token_index=258,
    ),
    "qwen2_5_vl": lambda: Qwen2_5_VLConfig(
        text_config={**_TEXT, "rope_parameters": _MROPE}, vision_config=_QWEN_VISION, **_QWEN_TOKENS
    ),
    "qwen3_5": lambda: Qwen3_5Config(
        text_config={**_TEXT, **_LINEAR, "rope_parameters": {**_MROPE, "partial_rotary_factor": 0.5}},
        vision_config={**_QWEN_VISION, "num_position_embeddings": 16}, **_QWEN_TOKENS,
    ),
}  # fmt: skip
"""By family. Those of Qwen turn queries and keys by positions on three axes, which are the same for text."""
HYBRIDS = ("qwen3_5",)
"""Families with layers that carry a state."""
PROCESSOR = {"preprocessor_config.json": {"image_size": 28}, "processor_config.json": {"processor_class": "Tiny"}}
"""Files of a processor that is none of transformers', by name."""


def save_composite(folder: Path, family: str) -> Path:
    """A composite's folder, its processor's files among them, with weights as `tiny.save_tiny_model` draws them."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(COMPOSITES[family](), dtype=torch.float32)
    save_drawn(model, folder)
    for name, settings in PROCESSOR.items():
        (folder / name).write_text(json.dumps(settings), encoding="utf-8")
    return folder

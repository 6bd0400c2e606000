"""Configurations of models of the paper's sizes, without weights, and requests for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GPTJConfig, GPTNeoXConfig, PretrainedConfig

from sparsepo_dist.engines.deepspeed.ds_config import load_ds_config
from sparsepo_dist.plan.asked.request import Device, Request
from sparsepo_dist.runs.parsing import parse_train
from tests.plan.measuring import arguments

MODELS: dict[str, PretrainedConfig] = {
    "pythia-1.4b": GPTNeoXConfig(
        hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192, vocab_size=50304,
        max_position_embeddings=2048,
    ),
    "gpt-j-6b": GPTJConfig(),
}  # fmt: skip

Ask = Callable[..., Request]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """A request for a model by name, with dotted fields."""

    def build(model: str, gpus: int, fields: dict[str, Any] | None = None, *, device: Device = "cuda") -> Request:
        folder = tmp_path / model
        MODELS[model].save_pretrained(folder)
        given = {"model.path": folder, **(fields or {})}
        recipe = given.pop("recipe", None)
        config = parse_train([*(["--recipe", recipe] if recipe else []), *arguments(given)])
        return Request(config, load_ds_config(config.ds_config), gpus, device=device)

    return build

"""What cannot be shared by ranks is refused, with the reason and what to do."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig, Mamba2Config, PretrainedConfig

from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.layouts.choice import ModelKind
from sparsepo_dist.engines.layouts.splitting import check_splitting
from sparsepo_dist.engines.sequence.group import check_ranks
from sparsepo_dist.errors import UserError
from tests.support.tiny import tiny_config

LONGROPE = LlamaConfig(
    hidden_size=32, num_attention_heads=4, max_position_embeddings=512,
    rope_parameters={
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 64,
    },
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "layout", "ranks", "words"),
    [
        (tiny_config("llama"), "padded", 2, "padded uses the models' own attention.*prefix_shared or packed"),
        (tiny_config("llama"), "packed", 3, "3 does not divide the 4 attention heads of model.path.*say 1 or 2 or 4"),
        (tiny_config("gptj"), "packed", 2, "gptj model .model.path., attention is its own"),
        (Mamba2Config(), "packed", 2, "mamba2 model .model.path., layers besides attention carry a state"),
        (LONGROPE, "packed", 2, "llama model .model.path., positions are encoded by the length"),
    ],
)
def test_models_and_layouts(config: PretrainedConfig, layout: Layout, ranks: int, words: str) -> None:
    models = {"model.path": ModelKind.of(config)}
    check_splitting(models, layout, 1)
    with pytest.raises(UserError, match=f"training.sequence_parallel: .*{words}"):
        check_splitting(models, layout, ranks)


def test_what_can_be_shared_is_not_refused() -> None:
    check_splitting({"model.path": ModelKind.of(tiny_config("gpt_neox"))}, "prefix_shared", 4)
    check_splitting({"model.path": ModelKind.of(LONGROPE)}, "prefix_shared", 2)


def test_ranks_that_are_no_whole_number_of_groups() -> None:
    check_ranks(2, 4)
    with pytest.raises(UserError, match="4 does not divide the run's 6 ranks; launch a multiple of 4, or say 1 or"):
        check_ranks(4, 6)
    with pytest.raises(UserError, match="2 does not divide the run's 1 rank; .* or say 1$"):
        check_ranks(2, 1)

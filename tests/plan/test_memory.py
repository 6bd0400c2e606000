"""Predicted against measured peak memory of real training, on CPUs: three placements of the reference.

The measured run is the ordinary one, except for malloc's settings (memory_worker.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from tests.plan.measuring import PROMPT, RESPONSE, measure, predict, save_model, write_full_pairs
from tests.support.tiny import VOCABULARY

PAIRS_AT_ONCE = 4
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "adapter": (1, {"model.adapter": "lora"}),
    "replicated": (1, {"reference.placement": "replicated"}),
    "sharded": (2, {"reference.placement": "sharded"}),
}


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("memory")
    config = LlamaConfig(
        hidden_size=768, num_hidden_layers=9, num_attention_heads=12, intermediate_size=2048, vocab_size=VOCABULARY,
        max_position_embeddings=256, bos_token_id=256, eos_token_id=257,
    )  # fmt: skip
    return {
        "model.path": save_model(folder / "llama-64m", config),
        "data.train": write_full_pairs(folder / "pairs.jsonl", 16),
        "data.max_length": PROMPT + RESPONSE,
        "data.max_prompt_length": PROMPT,
        "data.tokens_per_micro_batch": PAIRS_AT_ONCE * (PROMPT + 2 * (RESPONSE - 1)),
        "training.precision": "fp32",
        "ds_config": "ds_configs/zero3.json",
    }


@pytest.mark.slow
@pytest.mark.parametrize("placement", CASES)
def test_peak_is_predicted(common: dict[str, Any], tmp_path: Path, placement: str) -> None:
    ranks, special = CASES[placement]
    # Adam's moments are there from the second step on; on several ranks ZeRO-3 follows its record from the third.
    steps = {"training.pairs_per_step": PAIRS_AT_ONCE * ranks, "training.max_steps": 2 if ranks == 1 else 3}
    fields = {**common, **special, **steps}
    plan, measured = predict(fields, ranks), measure(tmp_path, fields, ranks)
    assert plan.peak == pytest.approx(measured, rel=0.15), f"{plan.peak / measured - 1:+.1%}"

"""The conversion gives a whole model with the right special tokens, whatever configuration is alive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer
from transformers.integrations import HfDeepSpeedConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

from sparsepo_dist.builtin import smollm2
from sparsepo_dist.builtin.prompts import all_prompts

ZERO3 = {"train_batch_size": 1, "zero_optimization": {"stage": 3}}


def test_a_live_zero3_configuration_is_hidden_and_restored() -> None:
    alive = HfDeepSpeedConfig(ZERO3)
    try:
        with pytest.raises(OSError, match="disk full"), smollm2._unsharded():
            assert not is_deepspeed_zero3_enabled()
            raise OSError("disk full")
        assert is_deepspeed_zero3_enabled()
    finally:
        unset_hf_deepspeed_config()
        del alive


@pytest.mark.slow
def test_conversion_under_zero3_is_whole_and_knows_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEPO_CACHE", str(tmp_path))
    alive = HfDeepSpeedConfig(ZERO3)
    try:
        folder = smollm2.smollm2_folder()
    finally:
        unset_hf_deepspeed_config()
        del alive
    weights = load_file(folder / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == 134_515_008
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for ids in (
        (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id),
        (generation["bos_token_id"], generation["eos_token_id"], generation["pad_token_id"]),
    ):
        assert ids == (1, 2, 2)
    assert tokenizer.chat_template
    prompts = [tokenizer(prompt)["input_ids"] for prompt in all_prompts()]
    assert all(5 <= len(ids) <= 8 and ids[0] != 1 for ids in prompts)

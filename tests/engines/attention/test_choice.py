"""Which attention a model gets on which device; no GPU is needed to know."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
    DogeConfig,
    DogeForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    PretrainedConfig,
)

from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.attention import choice, flex
from sparsepo_dist.engines.attention.blockwise import BLOCKWISE
from sparsepo_dist.engines.attention.choice import AttentionSetting, attention_implementation, tried_attention
from sparsepo_dist.engines.attention.flex import FLEX
from sparsepo_dist.engines.attention.segments import SEGMENTS
from sparsepo_dist.engines.attention.varlen import VARLEN
from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.inputs import load_inputs
from sparsepo_dist.runs.parsing import parse_train
from tests.engines.attention import plain_flash
from tests.support.tiny import save_tiny_model, tiny_config, write_pairs

GPU = torch.device("cuda", 0)


def chosen(
    family: str, layout: Layout, device: torch.device = GPU, dtype: torch.dtype = torch.bfloat16,
    width: int = 64, tried: bool = False, **setting: Any,
) -> str:  # fmt: skip
    config: PretrainedConfig = tiny_config(family)
    if family == "llama":
        config.head_dim = width
    kind = AutoModelForCausalLM._model_mapping[type(config)]
    given = AttentionSetting(device=device, present=False, **setting)
    return (tried_attention if tried else attention_implementation)(config, kind, layout, dtype, given)


def test_cpus_compute_sequence_by_sequence() -> None:
    for layout in ("prefix_shared", "packed"):
        assert chosen("llama", layout, torch.device("cpu")) == SEGMENTS


def test_gpus_use_flex_attention_and_flash_attention_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("llama", "prefix_shared") == chosen("llama", "packed") == FLEX
    plain_flash.installed(monkeypatch)
    assert chosen("llama", "prefix_shared") == FLEX
    assert chosen("llama", "packed") == VARLEN
    assert chosen("llama", "packed", name="flex") == FLEX
    assert chosen("llama", "packed", dtype=torch.float32) == FLEX
    assert chosen("llama", "packed", width=288) == FLEX


def test_block_by_block_where_no_kernel_can_be_and_on_request() -> None:
    assert chosen("llama", "prefix_shared", dtype=torch.float64) == BLOCKWISE
    assert chosen("llama", "prefix_shared", width=8) == BLOCKWISE
    assert chosen("llama", "prefix_shared", name="blockwise") == BLOCKWISE


def test_dropout_decides_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2 has dropout, our Llama none that could be left on."""
    monkeypatch.setattr(choice, "_FLEX_NARROWEST", 8)
    assert chosen("gpt2", "prefix_shared") == FLEX
    assert chosen("gpt2", "prefix_shared", dropout=True) == BLOCKWISE
    assert chosen("llama", "prefix_shared", dropout=True) == FLEX
    plain_flash.installed(monkeypatch)
    assert chosen("gpt2", "packed", dropout=True) == VARLEN


def test_sinks_are_left_to_kernels_that_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_flash.installed(monkeypatch)
    given = (GptOssConfig(), GptOssForCausalLM, "packed", torch.bfloat16)
    assert attention_implementation(*given, AttentionSetting(device=GPU, present=False)) == FLEX
    with pytest.raises(UserError, match="flash: FlashAttention has no attention sinks"):
        attention_implementation(*given, AttentionSetting("flash", GPU, present=False))


@pytest.mark.parametrize(
    ("config", "model", "why"),
    [
        (DeepseekV32Config, DeepseekV32ForCausalLM, "selects keys by an index"),
        (DogeConfig, DogeForCausalLM, "selects keys by a mask of its own"),
    ],
)
def test_attention_that_counts_the_whole_row_is_left_to_padded_rows(config: Any, model: type, why: str) -> None:
    for layout in ("prefix_shared", "packed"):
        with pytest.raises(UserError, match=f"data.layout {layout}: .*{why}; say --data.layout padded"):
            attention_implementation(config(), model, layout, torch.bfloat16, AttentionSetting())
    assert attention_implementation(config(), model, "padded", torch.bfloat16, AttentionSetting()) in ("sdpa", "eager")


def test_models_and_layouts_with_attention_of_their_own_keep_it() -> None:
    assert chosen("gptj", "prefix_shared") == "eager"
    assert chosen("llama", "padded") == "sdpa"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"device": torch.device("cpu"), "name": "flex"}, "flex: .*no gradient on CPUs"),
        ({"device": torch.device("cpu"), "name": "flash", "layout": "packed"}, "flash: .*GPUs only"),
        ({"name": "flash"}, "flash: .*prefix_shared"),
        ({"name": "flash", "layout": "packed"}, "flash: .*not installed"),
        ({"name": "flex", "dropout": True, "family": "gpt2"}, "flex: .*disable_dropout"),
        ({"name": "flex", "dtype": torch.float64}, "flex: .*float64"),
        ({"name": "blockwise", "layout": "padded"}, "blockwise: data.layout padded"),
        ({"name": "flex", "family": "gptj"}, "flex: a gptj model"),
    ],
)
def test_what_is_asked_for_by_name_is_refused_where_it_cannot_be(case: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"model.attention {message}"):
        chosen(case.pop("family", "llama"), case.pop("layout", "prefix_shared"), **case)


def test_flash_attention_refuses_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_flash.installed(monkeypatch)
    with pytest.raises(UserError, match="takes bf16 and fp16, not torch.float32"):
        chosen("llama", "packed", dtype=torch.float32, name="flash")


def test_a_kernel_that_does_not_run_is_found_before_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "flex_failure", lambda *_: "InductorError: out of shared memory")
    with caplog.at_level(logging.WARNING):
        assert chosen("llama", "prefix_shared", tried=True) == BLOCKWISE
    assert "block-wise" in caplog.text and "out of shared memory" in caplog.text
    with pytest.raises(UserError, match="flex: it does not run on cuda:0 .*shared memory.*say blockwise"):
        chosen("llama", "prefix_shared", tried=True, name="flex")
    caplog.clear()
    assert chosen("llama", "prefix_shared", tried=True, name="blockwise") == BLOCKWISE
    assert not caplog.text


def test_a_kernel_that_runs_is_used_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []
    monkeypatch.setattr(choice, "flex_failure", lambda *given: tried.append(given))
    with caplog.at_level(logging.WARNING):
        assert chosen("llama", "prefix_shared", tried=True) == FLEX
    assert not caplog.text and tried == [(flex.Heads(4, 2, 64), torch.bfloat16, GPU)]


def test_a_gpu_without_a_kernel_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert chosen("llama", "prefix_shared", width=8, tried=True) == BLOCKWISE
    assert "narrower than 16" in caplog.text


def test_trying_out_names_what_the_compiler_raised() -> None:
    """Here there is no gradient for it on a CPU; on a GPU it may be memory or a driver."""
    why = flex.flex_failure(flex.Heads(4, 2, 16), torch.float32, torch.device("cpu"))
    assert why is not None and why.startswith("NotImplementedError: FlexAttention does not support backward on CPU")


def test_a_run_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    model, pairs = save_tiny_model(tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl", 4)
    config = parse_train([
        "--model.path", str(model), "--data.train", str(pairs), "--objective.name", "dpo", "--data.max_length", "256",
        "--data.max_prompt_length", "128", "--model.attention", "flex",
    ])  # fmt: skip
    if torch.cuda.is_available():
        pytest.skip("there it can be")
    with pytest.raises(UserError, match="model.attention flex: FlexAttention computes no gradient on CPUs"):
        load_inputs(config)

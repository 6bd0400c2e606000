"""`sparsepo merge` of a base that is damaged, or that the adapter was not made for."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sparsepo_dist.engines.adapters.files import other_base, save_adapter
from sparsepo_dist.engines.adapters.lora import POLICY, add_adapters
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.merging import merge_adapter
from sparsepo_dist.errors import UserError
from tests.support.bad_inputs import rewritten
from tests.support.tiny import save_tiny_model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base)
    add_adapters(model, LoraSettings(rank=4), torch.float32, base=str(base), start=None, reference=None)
    (tmp_path / "adapter").mkdir()
    state = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    save_adapter(model, POLICY, state, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_tensors_that_are_missing_are_not_drawn(base: Path, adapter: Path, tmp_path: Path) -> None:
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="is incomplete: 1 tensors are missing, among them model.layers.1.mlp.up_proj"):
        merge_adapter(adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("content", [None, 500, b"\xff" * 500])
def test_weights_that_cannot_be_read(base: Path, adapter: Path, tmp_path: Path, content: bytes | int | None) -> None:
    rewritten("model.safetensors", content)(base)
    with pytest.raises(UserError, match="base .*: no causal language model could be loaded: ."):
        merge_adapter(adapter, tmp_path / "merged")


def test_an_adapter_on_another_base_is_named(
    base: Path, adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    with caplog.at_level(logging.WARNING, logger="sparsepo_dist"):
        merge_adapter(adapter, tmp_path / "merged", str(base))
    assert not caplog.records
    merge_adapter(adapter, tmp_path / "merged-other", str(other))
    assert f"it was made for the model {base}, and is put on {other}" in caplog.text
    assert other_base(str(adapter), str(base), str(base / ".." / "base"), "adapter") is None


def test_what_is_written_may_be_read_as_other_files_may(adapter: Path, tmp_path: Path) -> None:
    merge_adapter(adapter, tmp_path / "merged")
    for folder in (adapter, tmp_path / "merged"):
        assert len({stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}) == 1

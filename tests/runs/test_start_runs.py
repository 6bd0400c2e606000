"""Runs from an adapter of peft's with DoRA and modules of its own: ranks, ZeRO-3, the reference's place, resumption."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sparsepo_dist.training.checkpoints.export import export_checkpoint
from tests.engines.adapters.test_adapters import stir
from tests.runs.test_adapter_runs import LEARNING_RATE, assert_same, trained
from tests.support.runs import ZERO, metrics, train_all
from tests.support.tiny import save_tiny_model, write_pairs

pytestmark = pytest.mark.slow
CHECKPOINT = "step-00000001"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("starts")
    save_tiny_model(base / "llama")
    shape = peft.LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], use_dora=True, modules_to_save=["norm", "embed_tokens", "lm_head"]
    )
    given = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base / "llama"), shape)
    stir(given)
    given.save_pretrained(base / "given")
    write_pairs(base / "pairs.jsonl", 4)
    common: dict[str, Any] = {
        "model.path": base / "llama", "model.adapter": "lora", "model.adapter_path": base / "given",
        "reference.adapter_path": base / "given", "reference.tokens_per_pass": 1, "data.train": base / "pairs.jsonl",
        "data.max_length": 100, "data.tokens_per_micro_batch": 1, "training.pairs_per_step": 4, "training.epochs": 2,
        "training.learning_rate": LEARNING_RATE, "training.eps": 1e-2, "training.schedule": "constant",
        "training.warmup_ratio": 0, "training.precision": "fp32", "training.full_metrics_every": 1,
        "checkpoints.every_steps": 1, "masks.dropout": 0.0, "masks.init": "calibrated",
    }  # fmt: skip
    done = train_all(base / "one", {"one": {**common, "ds_config": ZERO[2]}})
    two = {
        "zero3": {**common, "ds_config": ZERO[3], "model.activation_checkpointing": True},
        "sharded": {**common, "ds_config": ZERO[3], "reference.placement": "sharded"},
    }
    done |= train_all(base / "two", two, ranks=2)
    again = base / "again" / "resumed"
    shutil.copytree(done["zero3"] / "checkpoints" / CHECKPOINT, again / "checkpoints" / CHECKPOINT)
    shutil.copy(done["zero3"] / "metrics.jsonl", again)
    return done | train_all(base / "again", {"resumed": {**two["zero3"], "resume": "auto"}}, ranks=2)


@pytest.mark.parametrize("name", ["zero3", "sharded"])
def test_ranks_and_the_references_place_change_nothing(folders: dict[str, Path], name: str) -> None:
    assert_same(folders["one"], folders[name])


@pytest.mark.parametrize("name", ["one", "zero3", "sharded"])
def test_step_zero_is_the_reference(folders: dict[str, Path], name: str) -> None:
    first = metrics(folders[name])[0]
    assert 0.69314 < first["loss"] < 0.69316
    assert abs(first["kl/chosen"]) < 1e-5 and abs(first["rewards/margins"]) < 1e-6


def test_all_of_it_learns(folders: dict[str, Path]) -> None:
    start, end = load_file(folders["one"].parents[1] / "given" / "adapter_model.safetensors"), trained(folders["one"])
    for part in ("lora_A", "lora_B", "lora_magnitude_vector", "model.norm.weight", "embed_tokens", "lm_head"):
        moved = [key for key in end if part in key and key in start and not torch.equal(start[key], end[key])]
        assert moved, part


def test_resumed_bit_for_bit(folders: dict[str, Path]) -> None:
    whole, again = trained(folders["zero3"]), trained(folders["resumed"])
    assert whole.keys() == again.keys() and all(torch.equal(whole[key], again[key]) for key in whole)
    assert metrics(folders["zero3"]) == metrics(folders["resumed"])


def test_a_checkpoint_exports_what_final_holds(folders: dict[str, Path], tmp_path: Path) -> None:
    run = folders["zero3"]
    exported = export_checkpoint(max((run / "checkpoints").glob("step-*")), tmp_path / "out")
    found, want = load_file(exported / "adapter_model.safetensors"), trained(run)
    assert all(torch.equal(value, want[key]) for key, value in found.items())
    assert found.keys() == load_file(run / "final" / "adapter_model.safetensors").keys()

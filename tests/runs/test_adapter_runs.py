"""LoRA and QLoRA runs: ZeRO-2 and 3, one rank and two, checkpointing; where the reference lives changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.runs import ROOT, ZERO, metrics, train_all
from tests.support.tiny import save_tiny_model, write_pairs

pytestmark = pytest.mark.slow
ADAPTED = (("gptj", "qlora"), ("gpt_neox", "lora"), ("llama", "lora"), ("llama", "qlora"))  # family and adapter
LEARNING_RATE = 1e-2
TOLERANCE = 1e-3 * LEARNING_RATE
# Name of a layout of the work -> what it changes on two ranks against one rank, ZeRO-2.
LAYOUTS: dict[str, dict[str, Any]] = {
    "zero2": {"ds_config": ZERO[2], "model.activation_checkpointing": True},
    "zero3": {"ds_config": ZERO[3]},
    "zero3_checkpointing": {"ds_config": ZERO[3], "model.activation_checkpointing": True},
}
# Reference elsewhere -> objective it is compared with.
PLACEMENTS = {"sharded": "sparsepo", "replicated": "mapo", "offload": "dpo"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("adapters")
    for family in dict(ADAPTED):
        save_tiny_model(base / family, family)
    write_pairs(base / "pairs.jsonl", 8)
    write_pairs(base / "heldout.jsonl", 2)
    common: dict[str, Any] = {
        "data.train": base / "pairs.jsonl",
        "data.heldout": base / "heldout.jsonl",
        "data.max_length": 100,
        "data.tokens_per_micro_batch": 120,
        # Scored in the same micro-batches, the reference is the policy to the last bit.
        "reference.tokens_per_pass": 1,
        "lora.rank": 4,
        "training.pairs_per_step": 8,
        "training.epochs": 2,
        "training.learning_rate": LEARNING_RATE,
        "training.eps": 1e-2,  # as in test_same_update.py: a wrong gradient shows, rounding does not
        "training.schedule": "constant",
        "training.warmup_ratio": 0,
        "training.precision": "fp32",
        "training.full_metrics_every": 1,
    }
    one: dict[str, dict[str, Any]] = {}
    two: dict[str, dict[str, Any]] = {}
    for family, adapter in ADAPTED:
        fields = {**common, "model.path": base / family, "model.adapter": adapter}
        one[f"{family}-{adapter}"] = {**fields, "ds_config": ZERO[2]}
        for layout, changes in LAYOUTS.items():
            two[f"{family}-{adapter}-{layout}"] = {**fields, **changes}
    llama = {**common, "model.path": base / "llama", "model.adapter": "lora", "ds_config": ZERO[3]}
    for placement, objective in PLACEMENTS.items():
        for name in ("adapter", placement):
            two[f"{objective}-{name}"] = {**llama, "objective.name": objective, "reference.placement": name}
    two["bf16"] = {**llama, "model.adapter": "qlora", "training.precision": "bf16", "lora.dropout": 0.05}
    two["sft"] = {**llama, "objective.name": "sft"}
    sft = base / "two" / "sft" / "final"
    from_sft = {**llama, "model.adapter_path": sft, "reference.adapter_path": sft}
    two["from_sft"] = {**from_sft, "lora.dropout": 0.5}
    two["from_sft_adapter"] = from_sft
    two["from_sft_sharded"] = {**from_sft, "reference.placement": "sharded"}
    return train_all(base / "one", one) | train_all(base / "two", two, ranks=2, timeout=1500)


def trained(run: Path) -> dict[str, torch.Tensor]:
    masks = run / "final" / "masks.safetensors"
    return load_file(run / "final" / "adapter_model.safetensors") | (load_file(masks) if masks.exists() else {})


def assert_same(run: Path, other: Path) -> None:
    want, got = trained(run), trained(other)
    assert want.keys() == got.keys()
    for key in want:
        assert (want[key] - got[key]).abs().max().item() <= TOLERANCE, key


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("family", "adapter"), ADAPTED)
def test_parameters_do_not_depend_on_ranks_stage_or_checkpointing(
    folders: dict[str, Path], family: str, adapter: str, layout: str
) -> None:
    assert_same(folders[f"{family}-{adapter}"], folders[f"{family}-{adapter}-{layout}"])


@pytest.mark.parametrize("name", map("-".join, ADAPTED))
def test_every_adapter_learns(folders: dict[str, Path], name: str) -> None:
    for key, value in trained(folders[name]).items():
        if "lora_B" in key:  # it starts at 0
            assert value.abs().max().item() > 10 * TOLERANCE, key


@pytest.mark.parametrize(("placement", "objective"), PLACEMENTS.items())
def test_a_reference_elsewhere_trains_alike(folders: dict[str, Path], placement: str, objective: str) -> None:
    assert_same(folders[f"{objective}-adapter"], folders[f"{objective}-{placement}"])
    for got, want in zip(
        metrics(folders[f"{objective}-adapter"]), metrics(folders[f"{objective}-{placement}"]), strict=True
    ):
        assert got.pop("split") == want.pop("split")
        assert got == pytest.approx(want, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "name", [*(f"{'-'.join(adapted)}-zero3" for adapted in ADAPTED), "bf16", "from_sft", "from_sft_adapter",
             "from_sft_sharded", "mapo-adapter"]
)  # fmt: skip
def test_step_zero_is_the_reference(folders: dict[str, Path], name: str) -> None:
    evaluated, first, *_ = metrics(folders[name])
    rows = (
        [evaluated] if name == "from_sft" else [evaluated, first]
    )  # its adapter is not 0, and has dropout in training
    for row in rows:
        assert 0.69314 < row["loss"] < 0.69316
        assert row["kl/chosen"] == 0.0 and row["rewards/margins"] == 0.0


def test_an_adapter_start_is_its_own_reference_wherever_that_lives(folders: dict[str, Path]) -> None:
    assert_same(folders["from_sft_adapter"], folders["from_sft_sharded"])
    start, end = trained(folders["sft"]), trained(folders["from_sft_adapter"])
    assert all((start[key] - end[key]).abs().max().item() < 5 * LEARNING_RATE for key in start)
    assert any((start[key] - end[key]).abs().max().item() > 10 * TOLERANCE for key in start)


def test_final_holds_the_adapter_and_no_frozen_weight(folders: dict[str, Path]) -> None:
    final = folders["gptj-qlora-zero3"] / "final"
    assert all("lora_" in key for key in load_file(final / "adapter_model.safetensors"))
    assert not (final / "model.safetensors").exists() and (final / "masks.safetensors").is_file()
    base = AutoModelForCausalLM.from_pretrained(folders["gptj-qlora"].parents[1] / "gptj")
    model = peft.PeftModel.from_pretrained(base, final)
    assert model.peft_config["default"].base_model_name_or_path.endswith("gptj")
    ids = torch.tensor([[70, 71, 72]])
    with torch.no_grad():
        adapted = model(input_ids=ids).logits
        with model.disable_adapter():
            assert not torch.allclose(adapted, model(input_ids=ids).logits)


def test_the_papers_qlora_recipe_runs_as_it_is(tmp_path: Path) -> None:
    """On a tiny GPT-J and pairs that a script writes; nothing else of the recipe is changed."""
    written = [sys.executable, "-m", "tests.support.tiny", str(tmp_path), "--family", "gptj", "--pairs", "6"]
    subprocess.run(written, cwd=ROOT, check=True, capture_output=True)
    run = train_all(
        tmp_path,
        {
            "run": {
                "recipe": ROOT / "launch" / "recipes" / "summaries" / "sparsepo_common.yaml",
                "model.path": tmp_path / "model",
                "data.train": tmp_path / "pairs.jsonl",
                "data.heldout": tmp_path / "pairs.jsonl",
            }
        },
        ranks=2,
    )["run"]
    saved = json.loads((run / "final" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["lora_dropout"]) == (16, 16, 0.05)
    row = metrics(run)[0]
    assert 0.69314 < row["loss"] < 0.69316 and row["kl/chosen"] == 0

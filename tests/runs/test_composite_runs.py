"""Runs of a composite model: its text decoder trained on two ranks, the whole saved, exported, adapted and merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, Gemma3ForConditionalGeneration

from sparsepo_dist.engines.merging import merge_adapter
from sparsepo_dist.evaluation.divergence import ReferenceKL
from sparsepo_dist.report.pages.build import build_report
from sparsepo_dist.sampling.transformers import sample
from sparsepo_dist.training.checkpoints.export import export_checkpoint
from tests.support.composites import PROCESSOR, save_composite
from tests.support.runs import ZERO, metrics, train_all
from tests.support.tiny import write_pairs

pytestmark = pytest.mark.slow
RUNS: dict[str, dict[str, Any]] = {
    "whole": {"ds_config": ZERO[3], "objective.name": "dpo", "checkpoints.every_steps": 1},
    "checkpointing": {"ds_config": ZERO[2], "objective.name": "dpo", "model.activation_checkpointing": True},
    "lora": {"ds_config": ZERO[3], "objective.name": "mapo", "model.adapter": "lora"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composite")
    save_composite(folder / "gemma3", "gemma3")
    write_pairs(folder / "pairs.jsonl", 8)
    return folder


@pytest.fixture(scope="module")
def runs(base: Path) -> dict[str, Path]:
    common = {
        "model.path": base / "gemma3", "data.train": base / "pairs.jsonl", "data.max_length": 100,
        "data.tokens_per_micro_batch": 70, "training.pairs_per_step": 4, "training.epochs": 1,
        "training.learning_rate": 1e-2, "training.eps": 1e-2, "training.precision": "fp32",
    }  # fmt: skip
    return train_all(base / "runs", {name: {**common, **special} for name, special in RUNS.items()}, ranks=2)


def assert_only_text_differs(folder: Path, start: Path) -> None:
    before, after = load_file(start / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("language_model" in name for name in changed)


def test_the_final_model_is_the_composite_with_another_text_decoder(base: Path, runs: dict[str, Path]) -> None:
    final = runs["whole"] / "final"
    assert_only_text_differs(final, base / "gemma3")
    model, found = AutoModelForImageTextToText.from_pretrained(final, output_loading_info=True)
    assert isinstance(model, Gemma3ForConditionalGeneration) and not found["missing_keys"]
    build_report(runs["whole"])
    assert "AutoModelForMultimodalLM" in (final / "README.md").read_text()
    for name in PROCESSOR:
        assert (final / name).read_bytes() == (base / "gemma3" / name).read_bytes()


def test_activation_checkpointing_and_the_stage_change_nothing(runs: dict[str, Path]) -> None:
    for whole, other in zip(metrics(runs["whole"]), metrics(runs["checkpointing"]), strict=True):
        assert whole["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_a_checkpoint_is_exported_whole(runs: dict[str, Path], tmp_path: Path) -> None:
    (last,) = sorted((runs["whole"] / "checkpoints").glob("step-*"))[-1:]
    exported = load_file(export_checkpoint(last, tmp_path / "model") / "model.safetensors")
    final = load_file(runs["whole"] / "final" / "model.safetensors")
    assert exported.keys() == final.keys() and all(torch.equal(exported[name], final[name]) for name in final)
    assert (tmp_path / "model" / "processor_config.json").is_file()


def test_an_adapter_is_merged_into_the_composite(base: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    assert all("language_model" in key for key in load_file(runs["lora"] / "final" / "adapter_model.safetensors"))
    merged = merge_adapter(runs["lora"] / "final", tmp_path / "merged")
    assert_only_text_differs(merged, base / "gemma3")
    assert (merged / "processor_config.json").is_file()


def test_evaluation_samples_from_and_measures_a_final_model(base: Path, runs: dict[str, Path]) -> None:
    samples = sample(runs["whole"] / "final", ["a film"], 2, seed=0, description="sampling")
    found = ReferenceKL(base / "gemma3").per_response(runs["whole"] / "final", samples)
    assert len(found) == 2 and all(value > 0 for value in found)

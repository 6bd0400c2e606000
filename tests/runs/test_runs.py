"""Whole runs of tiny models under ZeRO-3 on two ranks: what they report at step 0 and what they leave behind."""

from __future__ import annotations

import json
import math
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo_dist.report.pages.build import build_report
from sparsepo_dist.runs.parsing import parse_train
from tests.support.runs import ZERO, train_all
from tests.support.tiny import save_tiny_model, write_pairs

PREFERENCE = ("sparsepo", "released", "common", "mapo", "tdpo1", "tdpo2", "dpo", "bf16")
FAMILIES = ("gpt2", "gptj", "gpt_neox")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("runs")
    for family in ("llama", *FAMILIES):
        save_tiny_model(base / family, family)
    write_pairs(base / "train.jsonl", 12)
    write_pairs(base / "heldout.jsonl", 5, seed=1)
    write_pairs(base / "more.jsonl", 9, seed=2)
    mixture = [{"source": str(base / "train.jsonl"), "pairs": 7}, f"{base / 'more.jsonl'}[:5]"]
    common: dict[str, Any] = {
        "ds_config": {**ZERO[3], "csv_monitor": {"enabled": True, "output_path": "auto", "job_name": "csv"}},
        "model.path": base / "llama",
        "data.train": base / "train.jsonl",
        "data.heldout": base / "heldout.jsonl",
        "data.max_length": 100,
        "data.tokens_per_micro_batch": 150,
        "training.pairs_per_step": 5,
        "training.learning_rate": 1e-3,
        "training.precision": "fp32",
        # Scored in the same micro-batches, the reference is the policy to the last bit.
        "reference.tokens_per_pass": 1,
    }
    special: dict[str, dict[str, Any]] = {
        "sparsepo": {"objective.name": "sparsepo", "objective.l1_reward": 0.001},
        "released": {"objective.name": "sparsepo", "objective.divergence": "reference"},
        "common": {"objective.name": "sparsepo", "masks.sharing": "common"},
        "bf16": {"objective.name": "sparsepo", "training.precision": "bf16"},
        **{name: {"objective.name": name} for name in ("mapo", "tdpo1", "tdpo2", "dpo", "sft")},
        "mixture": {"objective.name": "dpo", "data.train": json.dumps(mixture)},
        **{family: {"model.path": base / family} for family in FAMILIES},
    }
    return train_all(base / "out", {name: {**common, **fields} for name, fields in special.items()}, ranks=2)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", [*PREFERENCE, *FAMILIES])
def test_step_zero_is_the_reference(runs: dict[str, Path], name: str) -> None:
    first_eval, first_train = metrics(runs[name])[:2]
    assert first_eval["step"] == 0 and first_eval["split"] == "eval" and first_train["step"] == 1
    penalty = 0.001 if name == "sparsepo" else 0.0
    for row in (first_eval, first_train):
        loss = row["loss"] - penalty * row.get("l1/reward_mask", 0.0)
        assert 0.69314 < loss < 0.69316
        assert row["rewards/margins"] == 0.0
        if name != "dpo":
            assert row["kl/chosen"] == 0.0 and row["kl/rejected"] == 0.0


@pytest.mark.parametrize("name", [*PREFERENCE, "sft", *FAMILIES])
def test_every_step_is_reported_and_the_model_learns(runs: dict[str, Path], name: str) -> None:
    rows = metrics(runs[name])
    train = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3]
    assert [row["step"] for row in rows if row["split"] == "eval"] == [0, 3]
    assert all(math.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str | list))
    assert train[-1]["loss"] != train[0]["loss"] and train[-1]["tokens_per_second"] > 0
    assert all(row["grad_norm"] > 0 for row in train)


def test_imbalance_is_that_of_the_pairs_whatever_is_trained_on_them(runs: dict[str, Path]) -> None:
    found = []
    for name in ("sparsepo", "dpo"):
        rows = [json.loads(line) for line in (runs[name] / "metrics.jsonl").read_text().splitlines()]
        found.append([row["imbalance"] for row in rows if row["split"] == "train"])
    assert found[0] == found[1] and all(1 < value < 2 for value in found[0])


@pytest.mark.parametrize("name", ["sparsepo", "bf16", *FAMILIES])
def test_final_model_loads_and_generates(runs: dict[str, Path], name: str) -> None:
    final = runs[name] / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    tokenizer = AutoTokenizer.from_pretrained(final)
    inputs = tokenizer("good film", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=257).shape[1] > 9
    start = AutoModelForCausalLM.from_pretrained(runs[name].parents[1] / ("llama" if name == "sparsepo" else name)) \
        if name != "bf16" else None  # fmt: skip
    if start is not None:
        moved = [not torch.equal(a, b) for a, b in zip(start.parameters(), model.parameters(), strict=True)]
        assert all(moved)


def test_masks_are_saved_where_they_were_learned(runs: dict[str, Path]) -> None:
    independent = load_file(runs["sparsepo"] / "final" / "masks.safetensors")
    assert independent["reward.weight"].shape == (3, 32) and "divergence.weight" in independent
    assert "divergence.weight" not in load_file(runs["common"] / "final" / "masks.safetensors")
    assert not (runs["mapo"] / "final" / "masks.safetensors").exists()


def test_nothing_reads_the_masks_of_a_final_model(runs: dict[str, Path], tmp_path: Path) -> None:
    """They weight the training loss only: tampered with, they change nothing."""
    copy = shutil.copytree(runs["sparsepo"], tmp_path / "run")
    (copy / "final" / "masks.safetensors").write_bytes(b"\xff" * 64)
    models = [AutoModelForCausalLM.from_pretrained(run / "final") for run in (copy, runs["sparsepo"])]
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))
    assert build_report(copy)


def test_run_folder_can_be_understood_and_repeated(runs: dict[str, Path]) -> None:
    run = runs["sparsepo"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["training"]["pairs_per_step"] == 5 and config["training"]["max_grad_norm"] == 1.0
    assert list((run / "monitor").rglob("*.csv"))
    rows = [json.loads(line) for line in (run / "tokens.jsonl").read_text().splitlines()]
    assert {row["branch"] for row in rows} == {"chosen", "rejected"}
    assert all(len(row["tokens"]) == len(row["reward_mask"]) == len(row["kl"]) for row in rows)
    written = {path.name for path in build_report(run)}
    assert {"loss.png", "rewards.png", "token_kl.png", "sparsity.png", "index.html"} <= written


def test_a_run_says_which_pairs_came_from_where(runs: dict[str, Path]) -> None:
    base = runs["dpo"].parents[1]
    heldout = {"source": str(base / "heldout.jsonl"), "rows": 5, "pairs": 5, "taken": 5}
    one = {"source": str(base / "train.jsonl"), "rows": 12, "pairs": 12, "taken": 12}
    two = {"source": f"{base / 'more.jsonl'}[:5]", "rows": 5, "pairs": 5, "taken": 5}
    for name, train in (("dpo", [one]), ("mixture", [{**one, "taken": 7}, two])):
        told = json.loads((runs[name] / "sources.json").read_text())
        assert told == {"mixture_seed": 0, "train": train, "heldout": [heldout]}


def test_a_mixture_trains_is_described_and_is_a_recipe_again(runs: dict[str, Path]) -> None:
    run = runs["mixture"]
    assert [row["step"] for row in metrics(run) if row["split"] == "train"] == [1, 2, 3]
    build_report(run)
    card = (run / "final" / "README.md").read_text()
    assert "'pairs': 7" in card and "more.jsonl[:5]" in card
    again = parse_train(["--recipe", str(run / "config.yaml")])
    assert [spec.pairs for spec in again.data.train_specs()] == [7, None]


def test_everything_may_be_read_by_whom_the_umask_lets(runs: dict[str, Path]) -> None:
    run = runs["sparsepo"]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in run.rglob("*") if path.is_file()}
    assert {path for path, mode in modes.items() if mode != modes[run / "config.yaml"]} == set()
    assert {"model.safetensors", "masks.safetensors"} <= {path.name for path in modes}


def test_sft_has_no_reference_and_no_rewards(runs: dict[str, Path]) -> None:
    row = metrics(runs["sft"])[-1]
    assert not any(name.startswith(("rewards", "kl")) for name in row)
    assert metrics(runs["sft"])[-1]["loss"] < metrics(runs["sft"])[0]["loss"]

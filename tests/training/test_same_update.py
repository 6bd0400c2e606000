"""One optimizer step gives the same parameters, however the work is laid out, sharded and dealt out to ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.runs import ZERO, train_all
from tests.support.tiny import save_tiny_model, write_pairs

LEARNING_RATE = 1e-2
# AdamW's first update is lr * g / (|g| + eps): this eps keeps it near proportional to the gradient, so that a wrong
# gradient shows and float32 rounding (1e-7 of gradients around 1e-2) does not.
EPS = 1e-2
TOLERANCE = 2e-4 * LEARNING_RATE


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("same_update")
    save_tiny_model(base / "model", "llama")
    write_pairs(base / "pairs.jsonl", 11)
    common: dict[str, Any] = {
        "model.path": base / "model",
        "data.train": base / "pairs.jsonl",
        "data.max_length": 100,
        "data.tokens_per_micro_batch": 200,
        "objective.name": "sparsepo",
        "objective.l1_reward": 0.01,
        "masks.layer_norm": True,
        "training.pairs_per_step": 11,
        "training.max_steps": 1,
        "training.learning_rate": LEARNING_RATE,
        "training.eps": EPS,
        "training.schedule": "constant",
        "training.warmup_ratio": 0,
        "training.precision": "fp32",
    }
    one = {
        "plain": {"ds_config": ZERO[0], "data.layout": "padded", "data.tokens_per_micro_batch": 100000,
                  "reference.placement": "replicated"},
        "zero0": {"ds_config": ZERO[0]},
        "zero1": {"ds_config": ZERO[1]},
        "zero2": {"ds_config": ZERO[2]},
        "zero3": {"ds_config": ZERO[3]},
        "packed": {"ds_config": ZERO[3], "data.layout": "packed"},
        "small_budget": {"ds_config": ZERO[3], "data.tokens_per_micro_batch": 70},
        "offload": {"ds_config": ZERO[3], "reference.placement": "offload"},
        "checkpointing": {"ds_config": ZERO[3], "model.activation_checkpointing": True},
        "selective": {"ds_config": ZERO[3], "model.activation_checkpointing": "selective"},
    }  # fmt: skip
    for name, changes in {"mapo": {"reference.placement": "replicated"}, "mapo_sharded": {}}.items():
        one[name] = {"ds_config": ZERO[3], "objective.name": "mapo", "objective.l1_reward": 0, **changes}
    two = {
        "mapo_two": {"ds_config": ZERO[3], "objective.name": "mapo", "objective.l1_reward": 0},
        "two_zero0": {"ds_config": ZERO[0], "reference.placement": "replicated"},
        "two_zero2": {"ds_config": ZERO[2]},
        "two_zero3": {"ds_config": ZERO[3]},
        "two_padded": {"ds_config": ZERO[3], "data.layout": "padded"},
        "two_small_budget": {"ds_config": ZERO[3], "data.tokens_per_micro_batch": 70},
        "two_scored_apart": {"ds_config": ZERO[3], "data.tokens_per_micro_batch": 70, "reference.tokens_per_pass": 1},
        "two_scored_by_threes": {
            "ds_config": ZERO[3],
            "data.tokens_per_micro_batch": 70,
            "reference.tokens_per_pass": 210,
            "data.layout": "padded",
        },
    }
    return train_all(base / "one", {n: {**common, **c} for n, c in one.items()}) | train_all(
        base / "two", {n: {**common, **c} for n, c in two.items()}, ranks=2
    )


def parameters(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors") | load_file(run / "final" / "masks.safetensors")


@pytest.mark.parametrize(
    "name",
    ["zero0", "zero1", "zero2", "zero3", "packed", "small_budget", "offload", "checkpointing", "selective",
     "two_zero0", "two_zero2", "two_zero3", "two_padded", "two_small_budget", "two_scored_apart",
     "two_scored_by_threes"],
)  # fmt: skip
def test_update_equals_the_plain_one(folders: dict[str, Path], name: str) -> None:
    plain, other = parameters(folders["plain"]), parameters(folders[name])
    assert plain.keys() == other.keys()
    for key in plain:
        assert (plain[key] - other[key]).abs().max().item() <= TOLERANCE, key


def mask_metrics(run: Path) -> dict[str, float]:
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    return {name: value for name, value in row.items() if name.startswith(("sparsity", "l1"))}


@pytest.mark.parametrize(
    ("plain", "other"),
    [("plain", "zero3"), ("plain", "offload"), ("plain", "two_zero3"), ("mapo", "mapo_sharded"), ("mapo", "mapo_two")],
)
def test_masks_do_not_depend_on_where_the_reference_rests(folders: dict[str, Path], plain: str, other: str) -> None:
    want = mask_metrics(folders[plain])
    assert want["l1/reward_mask"] > 0
    assert mask_metrics(folders[other]) == pytest.approx(want, rel=1e-5)


def test_the_step_moved_model_and_masks(folders: dict[str, Path]) -> None:
    start = load_file(folders["plain"].parents[1] / "model" / "model.safetensors")
    trained = parameters(folders["plain"])
    for key, value in start.items():
        assert (value - trained[key]).abs().max().item() > 10 * TOLERANCE, key
    assert {"reward.weight", "divergence.weight", "reward.out"} <= trained.keys()

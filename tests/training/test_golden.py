"""Golden runs: steps of SparsePO on a tiny model from a fixed seed reproduce the recorded metrics, on any backend.

Record anew, after a change that is meant to alter results, with SPARSEPO_RECORD_GOLDEN=1, and say in the commit why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import ZERO, assert_same_curve, metrics, train_all
from tests.support.tiny import save_tiny_model, write_pairs

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TOLERANCE = 1e-3  # relative: other processors round differently, and 20 steps let that grow
# Recorded runs, by file: steps, and what the recipe says besides.
OPTIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "sparsepo_20_steps": (20, {}),
    "calibrated_8_steps": (8, {"masks.init": "calibrated", "masks.initial_sparsity": "[0.7, 0.5]"}),
    "bounded_8_steps": (
        8, {"masks.init": "calibrated", "masks.bounded": True, "masks.floor": 0.02, "masks.initial_mean": 0.15,
            "objective.divergence": "reference"},
    ),
    "released_8_steps": (8, {"masks.init": "released", "training.seed": 1}),
    "floor_8_steps": (8, {"masks.floor": 0.05, "objective.divergence": "policy"}),
    "mapo_sigmoid_8_steps": (8, {"objective.name": "mapo", "masks.normalisation": "sigmoid"}),
    "mapo_layernorm_8_steps": (8, {"objective.name": "mapo", "masks.normalisation": "layernorm"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The recorded runs with the compiled kernels, and the first with plain PyTorch."""
    base = tmp_path_factory.mktemp("golden")
    save_tiny_model(base / "model")
    fields = {
        "ds_config": ZERO[3],
        "model.path": base / "model",
        "data.train": write_pairs(base / "train.jsonl", 24),
        "data.heldout": write_pairs(base / "heldout.jsonl", 6, seed=1),
        "data.max_length": 100,
        "data.tokens_per_micro_batch": 200,
        "objective.l1_reward": 0.001,
        "masks.layer_norm": True,
        "training.pairs_per_step": 6,
        "training.epochs": 5,
        "training.learning_rate": 1e-3,
        "training.eps": 1e-4,
        "training.evaluate_every": 10,
        "training.full_metrics_every": 1,
        "training.precision": "fp32",
    }
    asked = {
        name: {**fields, **special, "training.max_steps": steps, "ops.backend": "cpp"}
        for name, (steps, special) in OPTIONS.items()
    }
    return train_all(base / "out", {**asked, "eager": {**fields, "ops.backend": "eager"}})


@pytest.mark.parametrize("name", OPTIONS)
def test_steps_reproduce_the_recorded_metrics(runs: dict[str, Path], name: str) -> None:
    rows, golden = metrics(runs[name]), GOLDEN / f"{name}.jsonl"
    if os.environ.get("SPARSEPO_RECORD_GOLDEN"):
        golden.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded = [json.loads(line) for line in golden.read_text().splitlines()]
    steps = OPTIONS[name][0]
    assert len(rows) == len(recorded) == steps + (3 if steps > 10 else 2)
    for got, want in zip(rows, recorded, strict=True):
        assert got.pop("split") == want.pop("split")
        assert got == pytest.approx(want, rel=TOLERANCE, abs=1e-5), f"step {want['step']}"


def test_backends_give_the_same_training_curve(runs: dict[str, Path]) -> None:
    assert_same_curve(runs["sparsepo_20_steps"], runs["eager"])

"""A golden run: 20 steps of SparsePO on a tiny model from a fixed seed reproduce the recorded metrics, on any backend.

Record anew, after a change that is meant to alter results, with SPARSEPO_RECORD_GOLDEN=1, and say in the commit why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.runs import ZERO, assert_same_curve, metrics, train_all
from tests.support.tiny import save_tiny_model, write_pairs

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sparsepo_20_steps.jsonl"
TOLERANCE = 1e-3  # relative: other processors round differently, and 20 steps let that grow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run with the compiled kernels and with plain PyTorch."""
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
    return train_all(base / "out", {name: {**fields, "ops.backend": name} for name in ("cpp", "eager")})


def test_twenty_steps_reproduce_the_recorded_metrics(runs: dict[str, Path]) -> None:
    rows = metrics(runs["cpp"])
    if os.environ.get("SPARSEPO_RECORD_GOLDEN"):
        GOLDEN.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert len(rows) == len(recorded) == 20 + 3
    for got, want in zip(rows, recorded, strict=True):
        assert got.pop("split") == want.pop("split")
        assert got == pytest.approx(want, rel=TOLERANCE, abs=1e-5), f"step {want['step']}"


def test_backends_give_the_same_training_curve(runs: dict[str, Path]) -> None:
    assert_same_curve(runs["cpp"], runs["eager"])

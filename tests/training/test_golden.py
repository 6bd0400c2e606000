"""A golden run: 20 steps of SparsePO on a tiny model from a fixed seed reproduce the recorded metrics.

Record anew, after a change that is meant to alter results, with SPARSEPO_RECORD_GOLDEN=1, and say in the commit why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.runs import ZERO, train_all
from tests.support.tiny import save_tiny_model, write_pairs

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sparsepo_20_steps.jsonl"
VOLATILE = ("tokens_per_second", "seconds")
TOLERANCE = 1e-3  # relative: other processors round differently, and 20 steps let that grow


def test_twenty_steps_reproduce_the_recorded_metrics(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    fields = {
        "ds_config": ZERO[3],
        "model.path": tmp_path / "model",
        "data.train": write_pairs(tmp_path / "train.jsonl", 24),
        "data.heldout": write_pairs(tmp_path / "heldout.jsonl", 6, seed=1),
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
    run = train_all(tmp_path / "out", {"golden": fields})["golden"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if name not in VOLATILE} for row in rows]
    if os.environ.get("SPARSEPO_RECORD_GOLDEN"):
        GOLDEN.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert len(rows) == len(recorded) == 20 + 3
    for got, want in zip(rows, recorded, strict=True):
        assert got.pop("split") == want.pop("split")
        assert got == pytest.approx(want, rel=TOLERANCE, abs=1e-5), f"step {want['step']}"

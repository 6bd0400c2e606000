"""Sections of a ds_config that only watch, and those that are switched off, change nothing of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sparsepo_dist.engines.deepspeed.ds_checks import NOT_SERVED
from tests.support.runs import ZERO, metrics, train_all
from tests.support.scenarios import weights
from tests.support.tiny import save_tiny_model, write_pairs

pytestmark = pytest.mark.slow

OFF = {name: False if name == "sparse_gradients" else {"enabled": False} for name in NOT_SERVED}
WATCHING: dict[str, Any] = {
    "flops_profiler": {"enabled": True, "profile_step": 2},
    "comms_logger": {"enabled": True, "prof_all": True},
    "wall_clock_breakdown": True, "memory_breakdown": True, "dump_state": True, "steps_per_print": 1,
    "zero_allow_untested_optimizer": True,
}  # fmt: skip


def test_sections_that_watch_and_sections_that_are_off(tmp_path: Path) -> None:
    common = {
        "model.path": save_tiny_model(tmp_path / "llama"), "data.train": write_pairs(tmp_path / "train.jsonl", 12),
        "data.max_length": 100, "training.pairs_per_step": 5, "training.max_steps": 3, "training.precision": "fp32",
        "training.learning_rate": 1e-2, "checkpoints.every_steps": 2,
    }  # fmt: skip
    configs = {"plain": ZERO[3], "off": {**ZERO[3], **OFF}, "watched": {**ZERO[3], **WATCHING}}
    runs = train_all(tmp_path / "runs", {name: {**common, "ds_config": ds} for name, ds in configs.items()}, ranks=2)
    expected = weights(runs["plain"])
    for name in ("off", "watched"):
        assert metrics(runs[name]) == metrics(runs["plain"]), name
        found = weights(runs[name])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name

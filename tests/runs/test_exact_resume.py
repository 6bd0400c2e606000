"""A run that is stopped and resumed is the run that was never stopped: metrics, weights, samples."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.runs import ZERO, metrics
from tests.support.scenarios import outcome, play, scenario, weights
from tests.support.tiny import write_pairs

pytestmark = pytest.mark.slow

PAIRS, STEPS_PER_EPOCH = 12, 3
COMMON = {
    "data.tokens_per_micro_batch": 70, "training.pairs_per_step": 5, "training.epochs": 3,
    "training.learning_rate": 1e-2, "training.precision": "fp32", "training.evaluate_every": 2,
    "masks.dropout": 0.1, "model.disable_dropout": False, "checkpoints.every_steps": 3,
}  # fmt: skip
# What is special, and what stops it: while which rank does what in which step.
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sharded, learned masks": (
        {"ds_config": ZERO[3]}, {"kind": "SIGTERM", "step": 4, "during": "backward of micro-batch 2"},
    ),
    "sharded, no shared prompts": (
        {"ds_config": ZERO[3], "data.layout": "packed", "masks.kind": "random"},
        {"kind": "SIGUSR1", "step": 2, "during": "the policy's forward"},
    ),
    "adapter, dropout": (
        {"ds_config": ZERO[2], "model.adapter": "lora", "lora.dropout": 0.1},
        {"kind": "SIGTERM", "step": 5, "during": "optimizer step"},
    ),
    "quantised, dropout": (
        {"ds_config": ZERO[3], "model.adapter": "qlora", "lora.dropout": 0.1},
        {"kind": "SIGINT", "step": 7, "during": "backward of micro-batch 1"},
    ),
    "moving averages": (
        {"ds_config": ZERO[0], "objective.name": "beta_dpo"}, {"kind": "SIGTERM", "step": 3, "during": "packing"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(model_and_pairs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    heldout = write_pairs(tmp_path_factory.mktemp("data") / "heldout.jsonl", 4, seed=1)
    return {**COMMON, **model_and_pairs, "data.heldout": heldout}


@pytest.mark.parametrize("ranks", [1, 2])
def test_stopped_and_resumed_bit_for_bit(data: dict[str, Any], tmp_path: Path, ranks: int) -> None:
    names = list(RUNS) if ranks == 2 else list(RUNS)[:2]
    plan = []
    for name in names:
        special, fault = RUNS[name]
        fields = {**data, **special}
        plan.append(scenario(f"{name} whole", tmp_path, fields))
        stopped = {**fields, "resume": "auto"}
        plan.append(scenario(f"{name} stopped", tmp_path, stopped, {**fault, "rank": ranks - 1}, run=f"{name} cut"))
        plan.append(scenario(f"{name} resumed", tmp_path, stopped, run=f"{name} cut"))
    done = play(tmp_path, plan, ranks=ranks)
    assert done.returncode == 0, done.stderr[-4000:]
    for name in names:
        step = RUNS[name][1]["step"]
        stopped, resumed = outcome(tmp_path, f"{name} stopped"), outcome(tmp_path, f"{name} resumed")
        assert stopped["error"] == "StoppedError", name
        assert f"after step {step} of {3 * STEPS_PER_EPOCH}" in stopped["message"]
        assert stopped["code"] == (130 if RUNS[name][1]["kind"] == "SIGINT" else 75)
        assert resumed["error"] is None, resumed
        whole, cut = tmp_path / f"{name} whole", tmp_path / f"{name} cut"
        assert metrics(cut) == metrics(whole), name
        expected, found = weights(whole), weights(cut)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected), name
        seen = {**stopped["seen"], **resumed["seen"]}
        assert not stopped["seen"].keys() & resumed["seen"].keys()
        assert seen == outcome(tmp_path, f"{name} whole")["seen"]
        for epoch in range(3):
            steps = range(epoch * STEPS_PER_EPOCH + 1, (epoch + 1) * STEPS_PER_EPOCH + 1)
            assert sorted(index for number in steps for index in seen[str(number)]) == list(range(PAIRS))


RESHARDED: dict[str, dict[str, Any]] = {
    "replicated": {"ds_config": ZERO[0]},
    "stage 1": {"ds_config": ZERO[1]},
    "adapter": {"ds_config": ZERO[2], "model.adapter": "lora"},
    "sharded": {"ds_config": ZERO[3], "masks.learning_rate": 3e-3, "masks.weight_decay": 0.02},
}


def test_other_numbers_of_ranks(data: dict[str, Any], tmp_path: Path) -> None:
    """Without noise, which ranks draw each for itself, 2 ranks' checkpoint goes on alike on 1 and on 4."""
    quiet = {"masks.dropout": 0.0, "model.disable_dropout": True, "training.epochs": 2, "training.weight_decay": 0.01}
    written = [
        scenario(name, tmp_path, {**data, **quiet, **special, "checkpoints.every_steps": 4})
        for name, special in RESHARDED.items()
    ]
    done = play(tmp_path, written, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    for ranks in (1, 4):
        folder = tmp_path / f"on {ranks}"
        folder.mkdir()
        plan = []
        for name, special in RESHARDED.items():
            (folder / name).mkdir()
            shutil.copytree(
                tmp_path / name / "checkpoints" / "step-00000004", folder / name / "checkpoints" / "step-00000004"
            )
            shutil.copy(tmp_path / name / "metrics.jsonl", folder / name)
            plan.append(scenario(name, folder, {**data, **quiet, **special, "resume": "auto"}))
        done = play(folder, plan, ranks=ranks)
        assert done.returncode == 0, done.stderr[-4000:]
        for name in RESHARDED:
            assert outcome(folder, name)["error"] is None, outcome(folder, name)
            whole = outcome(tmp_path, name)["seen"]
            assert outcome(folder, name)["seen"] == {step: whole[step] for step in ("5", "6")}
            for got, want in zip(metrics(folder / name), metrics(tmp_path / name), strict=True):
                assert got.pop("split") == want.pop("split")
                assert got == pytest.approx(want, rel=1e-4, abs=1e-5), name
            expected, found = weights(tmp_path / name), weights(folder / name)
            worst = max((expected[key] - found[key]).abs().max().item() for key in expected)
            assert worst < 1e-3 * COMMON["training.learning_rate"], name

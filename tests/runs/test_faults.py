"""What goes wrong in a real run of several ranks: all of them end, the message says what happened, the run goes on."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparsepo_dist.data.tokens.shown import LEGEND
from sparsepo_dist.training.checkpoints.store import CheckpointStore
from tests.support.faults import AT_THE_END
from tests.support.runs import ZERO, metrics
from tests.support.scenarios import outcome, play, scenario, weights

pytestmark = pytest.mark.slow

COMMON = {
    "data.tokens_per_micro_batch": 70, "training.pairs_per_step": 5, "training.max_steps": 8,
    "training.epochs": 9, "training.learning_rate": 1e-2, "training.precision": "fp32", "masks.dropout": 0.1,
    "model.disable_dropout": False, "checkpoints.every_steps": 2, "resume": "auto",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(model_and_pairs: dict[str, Any]) -> dict[str, Any]:
    return {**COMMON, **model_and_pairs, "ds_config": ZERO[3]}


@pytest.fixture(scope="module")
def undisturbed(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = play(folder, [scenario("run", folder, data)], ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "run"


def sound(run: Path) -> list[int]:
    """Steps of the checkpoints, none of which may be damaged."""
    found = CheckpointStore(run / "checkpoints").complete()
    assert not [damage for damage in (checkpoint.damage() for checkpoint in found) if damage]
    return [checkpoint.step for checkpoint in found]


def assert_equal_to(run: Path, whole: Path) -> None:
    expected, found = weights(whole), weights(run)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert metrics(run) == metrics(whole)


def test_a_rank_is_killed_again_and_again(data: dict[str, Any], undisturbed: Path, tmp_path: Path) -> None:
    """kill -9 in the forward, in the optimizer, between a checkpoint's files, while they are synced."""
    faults = [
        {"kind": "kill", "rank": 1, "step": 2, "during": "inside the forward"},
        {"kind": "kill", "rank": 0, "step": 3, "during": "inside the optimizer"},
        {"kind": "kill", "rank": 1, "step": 4, "during": "between a checkpoint's files"},
        {"kind": "kill", "rank": 0, "step": 6, "during": "while a checkpoint is synced"},
    ]
    done = play(tmp_path, [scenario("run", tmp_path, data, *faults)], ranks=2, restarts=4)
    assert done.returncode == 0, done.stderr[-4000:]
    starts = [json.loads(line) for line in (tmp_path / "run.starts").read_text().splitlines()]
    # the second end may come before or after the background has made step 2's checkpoint complete
    assert starts[:2] + starts[3:] == [[], [], [2], [4, 2]] and starts[2] in ([], [2])
    assert_equal_to(tmp_path / "run", undisturbed)
    lost = [line for line in done.stderr.splitlines() if re.search("lost rank [01] in step", line)]
    assert lost, done.stderr[-4000:]
    assert all("--resume auto" in line for line in lost)
    assert not list((tmp_path / "run" / "checkpoints").glob(".writing-*"))
    assert sound(tmp_path / "run") == [8, 6]


def test_a_rank_is_killed_around_a_rename(data: dict[str, Any], undisturbed: Path, tmp_path: Path) -> None:
    """Before it there is no checkpoint, and no final/; after it there is a whole one."""
    faults = [
        {"kind": "kill", "rank": 0, "step": 2, "during": "before a checkpoint is renamed"},
        {"kind": "kill", "rank": 0, "step": 4, "during": "after a checkpoint is renamed"},
        {"kind": "kill", "rank": 0, "step": AT_THE_END, "during": "before final/ is renamed"},
        {"kind": "kill", "rank": 0, "step": AT_THE_END, "during": "after final/ is renamed"},
    ]
    done = play(tmp_path, [scenario("run", tmp_path, data, *faults)], ranks=2, restarts=4)
    assert done.returncode == 0, done.stderr[-4000:]
    starts = [json.loads(line) for line in (tmp_path / "run.starts").read_text().splitlines()]
    assert starts == [[], [], [4, 2], [8, 6], [8, 6]]
    assert_equal_to(tmp_path / "run", undisturbed)
    assert sound(tmp_path / "run") == [8, 6]
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.name != ".lock"]


def test_the_disk_fills_up(data: dict[str, Any], undisturbed: Path, tmp_path: Path) -> None:
    fault = {"kind": "full disk", "rank": 1, "step": 4, "during": "writing a checkpoint"}
    done = play(tmp_path, [scenario("run", tmp_path, data, fault)], ranks=2)
    assert done.returncode != 0
    message = next(line for line in done.stderr.splitlines() if line.startswith("error: rank 1"))
    assert "the checkpoint of step 4 could not be written" in message
    assert "make room" in message and "--resume auto" in message
    assert sound(tmp_path / "run") == [2]
    assert play(tmp_path, [scenario("run", tmp_path, data)], ranks=2).returncode == 0
    assert_equal_to(tmp_path / "run", undisturbed)


def test_a_rank_hangs(data: dict[str, Any], tmp_path: Path) -> None:
    fault = {"kind": "hang", "rank": 1, "step": 3, "during": "scoring with the reference"}
    done = play(tmp_path, [scenario("run", tmp_path, {**data, "training.hang_minutes": 0.1}, fault)], ranks=2)
    assert done.returncode != 0
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: nothing moved")]
    assert len(messages) == 1, done.stderr[-4000:]
    assert (
        "nothing moved for 6 s (training.hang_minutes): rank 1 hangs in step 3, scoring with the reference"
        in messages[0]
    )
    assert "faults.py" in messages[0]
    assert "waiting for it in step 3, scoring with the reference: rank 0" in messages[0]
    assert sound(tmp_path / "run") == [2]
    assert "faults.py" in (tmp_path / "run" / "hang-rank-1.txt").read_text()


def test_a_rank_hangs_before_the_first_step(data: dict[str, Any], tmp_path: Path) -> None:
    fault = {"kind": "hang", "rank": 1, "step": 0, "during": "loading the policy"}
    done = play(tmp_path, [scenario("run", tmp_path, {**data, "training.hang_minutes": 0.1}, fault)], ranks=2)
    assert done.returncode != 0
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("error: nothing moved"))
    assert "rank 1 hangs in step 0, loading the policy" in message and "faults.py" in message
    assert "waiting for it in step 0, loading the policy: rank 0" in message


def test_a_rank_is_stopped(data: dict[str, Any], tmp_path: Path) -> None:
    """SIGSTOP: its threads stand still too, so that where it was is what it said last."""
    fault = {"kind": "freeze", "rank": 1, "step": 5, "during": "scoring with the reference"}
    done = play(tmp_path, [scenario("run", tmp_path, {**data, "training.hang_minutes": 0.1}, fault)], ranks=2)
    assert done.returncode != 0
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: nothing moved")]
    assert len(messages) == 1, done.stderr[-4000:]
    assert re.search(r"no sign of life for \d+ s from rank 1, last in ", messages[0]), messages[0]
    assert "waiting for it in step 5, scoring with the reference: rank 0" in messages[0]
    assert sound(tmp_path / "run")[-1] == 2  # that of step 4 may have lacked its part


SKIPPING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{
        f"stage {stage} {precision}": (
            {"ds_config": ZERO[stage], "training.precision": precision},
            {"kind": kind, "pair": 7, "step": 1, "rank": 0},
        )
        for stage, precision, kind in [
            (0, "fp32", "nan"), (0, "bf16", "inf"), (1, "fp32", "inf"), (2, "fp32", "nan"), (2, "bf16", "nan"),
            (3, "fp32", "inf"), (3, "bf16", "nan"),
        ]
    },
    "gradient": ({}, {"kind": "gradient", "step": 2, "rank": 1}),
    "moving averages": (
        {"objective.name": "beta_dpo", "training.seed": 3}, {"kind": "nan", "pair": 7, "step": 1, "rank": 0},
    ),
}  # fmt: skip


def test_what_is_not_finite_is_skipped_and_named(data: dict[str, Any], tmp_path: Path) -> None:
    """12 pairs make three steps an epoch, one of which holds pair 7; it changes nothing, and the third time ends it."""
    limits = {"training.max_skipped_steps": 2, "checkpoints.every_steps": 1, "checkpoints.keep_last": 9}
    plan = [
        scenario(name, tmp_path, {**data, **limits, **special}, fault) for name, (special, fault) in SKIPPING.items()
    ]
    done = play(tmp_path, plan, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count(LEGEND) == len(plan), "each run shows its first pair, on one rank"
    for name, (_, fault) in SKIPPING.items():
        run, result = tmp_path / name, outcome(tmp_path, name)
        assert sound(run)
        rows = {row["step"]: row for row in metrics(run)}
        skipped = [step for step, row in rows.items() if row["grad_norm"] is None]
        if fault["kind"] == "gradient":
            assert result["error"] is None
            assert skipped == [2]
            assert "step 2 was skipped: the gradient is not finite" in done.stderr
        else:
            spoiled = [int(step) for step, indices in result["seen"].items() if 7 in indices]
            assert skipped == spoiled and len(spoiled) == 3, name
            assert result["error"] == "RunError" and result["code"] == 1
            assert f"step {spoiled[2]} was skipped: the loss is not finite for" in result["message"]
            assert "train.jsonl, row 8" in result["message"]
            assert max(sound(run)) == spoiled[2] - 1
        for step in skipped[:2]:
            before, after = (trained(run, number) for number in (step - 1, step))
            assert all(torch.equal(before[key], after[key]) for key in before), f"{name}, step {step}"
            assert any(not torch.equal(trained(run, step + 1)[key], after[key]) for key in after)
            assert all(value.isfinite().all() for value in after.values())
        assert all(math.isfinite(row["loss"]) for step, row in rows.items() if step not in skipped)


def trained(run: Path, step: int) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of weights and optimizer, by DeepSpeed's files; nothing for the start."""
    tensors: dict[str, torch.Tensor] = {}

    def collect(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            if value.is_floating_point() and value.numel() > 1:
                tensors[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(item, f"{name}/{key}")
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                collect(item, f"{name}/{number}")

    for file in sorted((run / "checkpoints" / f"step-{step:08d}" / "engine").glob("*.pt")):
        collect(torch.load(file, weights_only=False), file.name)
    return tensors


def test_damaged_checkpoints_are_named_and_passed_over(data: dict[str, Any], undisturbed: Path, tmp_path: Path) -> None:
    fields = {**data, "checkpoints.keep_last": 9}
    assert play(tmp_path, [scenario("run", tmp_path, {**fields, "training.seed": 0})], ranks=2).returncode == 0
    run = tmp_path / "run"
    shutil.rmtree(run / "final")  # a run that is finished would not be gone on with
    flipped = next((run / "checkpoints" / "step-00000008" / "engine").glob("*optim_states.pt"))
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    truncated = run / "checkpoints" / "step-00000006" / "rank-00001.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-1])
    (run / "checkpoints" / "step-00000004" / "state.json").unlink()
    again = [scenario("again", tmp_path, fields, run="run")]
    named = {**fields, "resume": run / "checkpoints" / "step-00000008"}
    again.append(scenario("named", tmp_path, named, run="run"))
    done = play(tmp_path, again, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    for words in ("has changed since it was written", "bytes instead of", "state.json is missing"):
        assert sum(words in line for line in done.stderr.splitlines()) == 1, words
    assert_equal_to(run, undisturbed)
    retired = run / "checkpoints" / "retired-final-0"
    assert retired.is_dir(), "a model of a way not taken makes no finished run"
    assert load_file(run / "checkpoints" / "step-00000002" / "rank-00000.safetensors")

"""How runs end: with a model or with something to go on from, never with neither in silence."""

from __future__ import annotations

import errno
import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sparsepo_dist.engines.saving import checkpoint_bytes, final_bytes
from sparsepo_dist.training.checkpoints.store import CheckpointStore
from tests.support.runs import ZERO, launch, metrics, train_all
from tests.support.scenarios import outcome, play, scenario, weights
from tests.support.tiny import save_tiny_model

pytestmark = pytest.mark.slow

STEPS = 3
COMMON = {
    "data.tokens_per_micro_batch": 70, "training.pairs_per_step": 12,
    "training.max_steps": STEPS, "training.epochs": 9, "training.learning_rate": 1e-2, "training.precision": "fp32",
    "checkpoints.every_minutes": 0, "resume": "auto",
}  # fmt: skip
FULL = {"kind": "no model", "errno": errno.ENOSPC}


@pytest.fixture(scope="module")
def data(model_and_pairs: dict[str, Any]) -> dict[str, Any]:
    return {**COMMON, **model_and_pairs, "ds_config": ZERO[3]}


def steps(run: Path) -> list[int]:
    return [checkpoint.step for checkpoint in CheckpointStore(run / "checkpoints").complete()]


def content(run: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}


def test_a_model_that_cannot_be_saved_costs_no_training(data: dict[str, Any], tmp_path: Path) -> None:
    """Its last step becomes a checkpoint; going on only saves; going on once more does nothing at all."""
    done = play(
        tmp_path,
        [
            scenario("whole", tmp_path, data),
            scenario("cut", tmp_path, data, FULL, run="run"),
            scenario("again", tmp_path, data, FULL, run="run"),
            scenario("denied", tmp_path, data, {**FULL, "errno": errno.EACCES}, run="run"),
            scenario("saved", tmp_path, data, run="run"),
        ],
        ranks=2,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    run = tmp_path / "run"
    for name in ("cut", "again"):
        ended = outcome(tmp_path, name)
        assert ended["error"] == "RunError" and ended["code"] == 1
        assert f"the model could not be saved to {run}: [Errno 28] No space left" in ended["message"]
        assert "make room" in ended["message"]
        assert f"The checkpoint of step {STEPS} is complete, go on with --resume auto, which only" in ended["message"]
    assert "make room" not in outcome(tmp_path, "denied")["message"]
    assert len(outcome(tmp_path, "cut")["seen"]) == STEPS
    for name in ("again", "denied", "saved"):
        assert not outcome(tmp_path, name)["seen"], "nothing was trained again"
    assert outcome(tmp_path, "saved")["error"] is None
    expected, found = weights(tmp_path / "whole"), weights(run)
    assert all(torch.equal(expected[key], found[key]) for key in expected | found)
    assert metrics(run) == metrics(tmp_path / "whole")
    assert steps(run) == [STEPS] and steps(tmp_path / "whole") == []
    assert not list(run.rglob(".writing-*"))
    before = content(run)
    done = play(tmp_path, [scenario("once more", tmp_path, data, run="run")], ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    ended = outcome(tmp_path, "once more")
    assert ended["error"] == "FinishedError" and ended["code"] == 0
    assert f"The run in {run} is finished: final/ is its model, and nothing was done" in ended["message"]
    assert content(run) == before


def test_where_nothing_can_be_written_the_message_says_what_is_lost(data: dict[str, Any], tmp_path: Path) -> None:
    fault = {"kind": "full disk", "rank": 0, "step": STEPS, "during": "saving the model"}
    done = play(tmp_path, [scenario("run", tmp_path, data, fault)], ranks=2)
    assert done.returncode == 1
    message = next(line for line in done.stderr.splitlines() if line.startswith("error: the model"))
    assert "the model could not be saved to" in message and f"the checkpoint of step {STEPS} could not be" in message
    assert "There is no complete checkpoint: --resume auto starts from the beginning" in message
    assert "intact" not in done.stderr
    assert not (tmp_path / "run" / ".writing-final").exists() and not (tmp_path / "run" / "final").exists()


def test_the_disk_is_looked_at_when_a_run_starts_and_before_it_writes(data: dict[str, Any], tmp_path: Path) -> None:
    small, often = {"kind": "small disk", "bytes": 100_000}, {**data, "checkpoints.every_steps": 1}
    done = play(
        tmp_path,
        [
            scenario("start", tmp_path, data, {**small, "step": 0}),
            scenario("later", tmp_path, often, {**small, "step": 2}),
            scenario("room for one", tmp_path, often, {**small, "step": 0, "bytes": 700_000}),
            scenario("room for the model", tmp_path, data, {**small, "step": STEPS, "bytes": 200_000}),
        ],
        ranks=2,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    start, later = outcome(tmp_path, "start"), outcome(tmp_path, "later")
    assert start["code"] == 2 and "too little for this run: a checkpoint takes about" in start["message"]
    assert "output_dir: the disk of" in start["message"] and "0.1 MiB free" in start["message"]
    assert {path.name for path in (tmp_path / "start").iterdir()} <= {".lock", "monitor"}
    assert later["error"] == "RunError" and "the checkpoint of step 2 takes about" in later["message"]
    assert "make room. The checkpoint of step 1 is complete, go on with --resume auto" in later["message"]
    assert steps(tmp_path / "later") == [1] and not list(tmp_path.rglob(".writing-*"))
    assert outcome(tmp_path, "room for one")["error"] is None
    assert outcome(tmp_path, "room for the model")["error"] is None


def test_a_folder_that_is_not_one_for_all_ranks_is_named_at_the_start(data: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    elsewhere = [{"kind": "another folder", "rank": 1, "folder": str(tmp_path / name)} for name in ("there", "nowhere")]
    plan = [scenario(Path(fault["folder"]).name + "-run", tmp_path, data, fault) for fault in elsewhere]
    done = play(tmp_path, plan, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    for name in ("there", "nowhere"):
        for rank in range(2):
            ended = json.loads((tmp_path / f"{name}-run-{rank}.json").read_text())
            assert ended["error"] == "UserError" and ended["code"] == 2
            assert f"output_dir: {tmp_path}/{name}-run is not one folder" in ended["message"] or rank == 1
            assert f"is not seen on {socket.gethostname()} ({tmp_path / name}), where rank 1" in ended["message"]
            assert "make room" not in ended["message"]
        assert {path.name for path in (tmp_path / f"{name}-run").iterdir()} == {".lock"}


def test_a_run_that_never_updated_anything_does_not_succeed(data: dict[str, Any], tmp_path: Path) -> None:
    """Every step holds all pairs, of which one has no loss."""
    fault = {"kind": "nan", "pair": 7, "step": 1, "rank": 0}
    recovered = {**data, "checkpoints.every_steps": 1}
    done = play(
        tmp_path,
        [
            scenario("run", tmp_path, data, fault),
            scenario("cut", tmp_path, {**recovered, "checkpoints.keep_last": 9}, fault),
            scenario("again", tmp_path, recovered, run="cut"),
        ],
        ranks=2,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for name in ("run", "cut", "again"):
        ended = outcome(tmp_path, name)
        assert ended["error"] == "RunError" and ended["code"] == 1, name
        assert f"all {STEPS} steps were skipped: the model is what it was, and is not saved" in ended["message"]
    assert not list(tmp_path.rglob("final"))


def spoiled(folder: Path, copy: Path, name: str) -> Path:
    """A copy of a model or adapter, one number of one tensor being NaN."""
    shutil.copytree(folder, copy)
    (file,) = copy.glob("*model.safetensors")
    tensors = load_file(file)
    tensors[name].view(-1)[-1] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    return copy


def test_weights_that_are_not_finite_are_refused_by_name(data: dict[str, Any], tmp_path: Path) -> None:
    """The last number of a tensor is on one rank only under ZeRO-3; all of them refuse it."""
    adapted = train_all(tmp_path / "runs", {"lora": {**data, "model.adapter": "lora"}})["lora"] / "final"
    key = "model.layers.1.mlp.up_proj.weight"
    model = spoiled(data["model.path"], tmp_path / "model", key)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    adapter = spoiled(adapted, tmp_path / "adapter", name)
    runs: dict[str, tuple[dict[str, Any], Path, str]] = {
        "policy": ({"model.path": model}, model, key),
        "replicated": ({"model.path": model, "ds_config": ZERO[2]}, model, key),
        "quantised": ({"model.path": model, "model.adapter": "qlora"}, model, key),
        "reference": ({"reference.path": model}, model, key),
        "oracle": ({"objective.name": "sepo", "oracle.path": model}, model, key),
        "adapter": ({"model.adapter": "lora", "model.adapter_path": adapter, "reference.adapter_path": adapter},
                    adapter, name),
    }  # fmt: skip
    done = play(
        tmp_path, [scenario(run, tmp_path, {**data, **special}) for run, (special, *_) in runs.items()], ranks=2
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for run, (_, folder, tensor) in runs.items():
        for rank in range(2):
            ended = json.loads((tmp_path / f"{run}-{rank}.json").read_text())
            assert ended["error"] == "UserError" and ended["code"] == 2, (run, ended)
            assert f"{folder}: {tensor} holds NaN or Inf" in ended["message"], run
        assert not (tmp_path / run / "config.yaml").exists()


def test_a_report_that_cannot_be_drawn_fails_no_run(data: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "report").write_text("where a folder should be")
    (run / "tokens.jsonl").mkdir()
    (tmp_path / "ds.json").write_text(json.dumps(ZERO[2]))
    fields = {**data, "ds_config": tmp_path / "ds.json", "output_dir": run, "training.max_steps": 1}
    arguments = ["launch/train.py", *(f"--{name}={value}" for name, value in fields.items())]
    done = launch(arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"The run in {run}" not in done.stdout and f"The run is in {run}: final/ is the model." in done.stdout
    assert "the report will show no tokens: " in done.stderr
    assert "the run is finished, without a report" in done.stderr and "File exists" in done.stderr
    assert "index.html" not in done.stdout and (run / "final" / "config.json").is_file()
    before = content(run)
    done = launch(arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count(f"The run in {run} is finished") == 1 and "Traceback" not in done.stderr
    assert content(run) == before


def test_what_is_written_is_as_large_as_was_said(data: dict[str, Any], tmp_path: Path) -> None:
    common = {
        **data, "model.path": save_tiny_model(tmp_path / "llama", vocabulary=4000), "objective.name": "dpo",
        "checkpoints.every_steps": STEPS,
    }  # fmt: skip
    plan = {
        f"{stage} {precision}": {**common, "ds_config": ZERO[stage], "training.precision": precision}
        for stage, precision in ((0, "fp32"), (1, "fp32"), (2, "bf16"), (3, "bf16"))
    }
    for name, run in train_all(tmp_path / "runs", plan, ranks=2).items():
        tensors = load_file(run / "final" / "model.safetensors").values()
        module = nn.Module()
        module.model, module.masker = nn.ParameterList(nn.Parameter(value) for value in tensors), None
        policy = cast(Any, SimpleNamespace(module=module, zero_stage=int(name[0])))
        for said, folder in ((checkpoint_bytes(policy), run / "checkpoints"), (final_bytes(policy), run / "final")):
            written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            assert 0.95 * said < written < 1.15 * said, name

"""`jobs.py watch` beside a training that is at work, and that removes checkpoints while they are read."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from sparsepo_dist.evaluation.jobs.store import JobStore
from sparsepo_dist.evaluation.jobs.watch import watch
from sparsepo_dist.queueing.job import Job, State
from sparsepo_dist.queueing.locks import held, lock
from sparsepo_dist.queueing.queue import Progress
from tests.support.evaluation_jobs import ROOT, Bench, until
from tests.support.runs import ZERO
from tests.support.tiny import save_tiny_model, write_pairs
from tests.support.warm import hearth, warm

STEPS, GATE = 10, 3
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(warm(*command), cwd=ROOT, env={**ENVIRONMENT, **hearth()}, stdout=file, stderr=file)


def start_training(folder: Path) -> subprocess.Popen[bytes]:
    """It has a checkpoint after every step, keeps the newest alone, and waits in between for folder/GO."""
    ds_config = folder / "ds.json"
    ds_config.write_text(json.dumps(ZERO[2]))
    fields = {
        "model.path": save_tiny_model(folder / "llama"), "data.train": write_pairs(folder / "train.jsonl", 4 * STEPS),
        "data.max_length": 100, "data.tokens_per_micro_batch": 400, "training.pairs_per_step": 4, "training.epochs": 1,
        "training.precision": "fp32", "checkpoints.every_steps": 1, "checkpoints.keep_last": 1,
        "ds_config": ds_config, "output_dir": folder / "run",
    }  # fmt: skip
    options = [f"--{name}={value}" for name, value in fields.items()]
    return start(["tests.support.gated", str(GATE), str(folder / "GO"), *options], folder / "training.log")


def start_watch(bench: Bench) -> subprocess.Popen[bytes]:
    command = ["evaluation/jobs.py", "watch", str(bench.folder / "run"), str(bench.file)]
    return start(command, bench.folder / "watch.log")


def removed(told: str) -> set[int]:
    """Steps of the checkpoints that `watch` says it could not evaluate."""
    one = re.findall(r"step-(\d+) was removed by its training before it could be evaluated", told)
    several = re.findall(r"removed by its training before they could be evaluated: those of steps ([\d, ]+);", told)
    return {int(step) for step in [*one, *(step for steps in several for step in steps.split(", "))]}


@pytest.mark.slow
def test_a_training_at_work_is_watched_to_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path, {}, models=0, jobs_at_once=2)
    bench.write({"a": {"needs": "config.json"}, "b": {"needs": "model.safetensors"}})
    run, store = tmp_path / "run", JobStore(bench.output)
    training = start_training(tmp_path)
    try:
        until(lambda: held(run / ".lock") or training.poll() is not None)
        watching = start_watch(bench)
        # The checkpoint that the training waits beside; then both run as fast as they can.
        until(lambda: store.job(f"run-step-{GATE:08d}", "b").now().final or watching.poll() is not None)
        (tmp_path / "GO").touch()
        codes = training.wait(), watching.wait()
    finally:
        (tmp_path / "GO").touch()
        training.wait()
    told = (tmp_path / "watch.log").read_text()
    assert codes == (0, 0), (tmp_path / "training.log").read_text()[-3000:] + told[-3000:]
    checkpoints = {step: f"run-step-{step:08d}" for step in range(1, STEPS + 1)}
    evaluated = {step for step, name in checkpoints.items() if store.job(name, "a").read().state == "done"}
    assert {GATE, STEPS} <= evaluated, "these stayed until they were evaluated"
    assert evaluated | removed(told) == set(checkpoints) and not evaluated & removed(told)
    wanted = sorted(f"{name}/{suite}" for name in ["run", *(checkpoints[step] for step in evaluated)] for suite in "ab")
    assert bench.ran() == wanted
    assert f"All {len(wanted)} jobs of {run} are done" in told and "stopped before its end" not in told
    assert not [path for path in (bench.output / "exported").iterdir() if path.is_dir()]

    watch(run, bench.plan)
    assert bench.ran() == wanted and removed(caplog.text) == set(checkpoints) - evaluated


def test_a_final_model_that_appears_while_jobs_are_looked_at_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, run = Bench(tmp_path, {"a": {}}, models=1), tmp_path / "run"
    run.mkdir()
    show = Progress.show

    def ends_meanwhile(self: Progress, jobs: Sequence[Job]) -> list[State]:
        if not (run / "final").exists():
            bench.models["m0"].rename(run / "final")
        return show(self, jobs)

    monkeypatch.setattr(Progress, "show", ends_meanwhile)
    with lock(run / ".lock") or pytest.fail("nobody else holds it"):  # the training, which goes on to write its report
        watch(run, bench.plan)
    assert bench.ran() == ["run/a"]

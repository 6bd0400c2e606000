"""launch/slurm/ on a real Slurm of two nodes, and what queues jobs there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.runs import losses, options, steps
from tests.cluster.slurm import Slurm
from tests.support.runs import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.long]
SHIPPED = sorted(path.name for path in (ROOT / "launch" / "slurm").glob("*.sbatch"))
LESS = "--ntasks-per-node=1 --cpus-per-task=1 --gpus-per-node=0 --mem=1000"
ASKED = "--nodes=2 --ntasks-per-node=1 --gpus-per-node=0 --cpus-per-task=1 --time=30 --mem=1000"
GO_ON = {
    "training.max_steps": 80, "training.epochs": 100, "checkpoints.every_steps": 4, "model.check": False,
    "training.hang_minutes": 0.3,
}  # fmt: skip


def submitted(slurm: Slurm, script: str, asked: str, words: str = "", log: Path | None = None) -> str:
    """Number of a job."""
    said = "" if log is None else f"--output={log} "
    code, answer = slurm.nodes.run(1, f"sbatch {asked} {said}launch/slurm/{script} {words}", slurm.environment())
    assert code == 0, answer
    return re.findall(r"Submitted batch job (\d+)", answer)[0]


def until(slurm: Slurm, happened: Callable[[], bool], log: Path, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not happened():
        said = log.read_text(errors="replace")[-3000:] if log.is_file() else ""
        assert time.monotonic() < end, f"it did not happen: {slurm.ask('squeue')} {said}"
        time.sleep(0.2)


def gone(slurm: Slurm, job: str) -> bool:
    return job not in slurm.ask("squeue", "-h", "-o", "%i", "-t", "all").split() or slurm.ask(
        "squeue", "-h", "-j", job, "-t", "all", "-o", "%T"
    ).strip() in ("COMPLETED", "CANCELLED", "FAILED")


@pytest.mark.parametrize("script", SHIPPED)
def test_slurm_takes_what_is_shipped(script: str, slurm: Slurm) -> None:
    """As it stands, but for cores and GPUs that this machine has not."""
    command = f"sbatch --test-only {LESS} launch/slurm/{script} runs/x"
    code, said = slurm.nodes.run(1, command, slurm.environment())
    assert code == 0 and "to start at" in said, said


def test_a_job_that_is_asked_to_stop_is_queued_again_and_ends_whole(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    """SIGUSR1, as Slurm sends before the end: a checkpoint, the job queued again, the run goes on where it was."""
    run, log = tmp_path / "run", tmp_path / "log"
    job = submitted(slurm, "train.sbatch", ASKED, f"{run} {options(data, run, **GO_ON)}", log)
    until(slurm, lambda: steps(run) >= 6, log)
    slurm.ask("scancel", "--signal=USR1", job)
    until(slurm, lambda: gone(slurm, job) and (run / "final").is_dir(), log, 240)
    assert len(losses(run)) == 80
    assert "stopped by SIGUSR1 after step" in log.read_text(errors="replace")


def test_a_cancelled_job_is_not_queued_again(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    job = submitted(slurm, "train.sbatch", ASKED, f"{run} {options(data, run, **GO_ON)}", log)
    until(slurm, lambda: steps(run) >= 5, log)
    slurm.ask("scancel", job)
    until(slurm, lambda: gone(slurm, job), log, 60)
    assert not (run / "final").exists() and list(run.glob("checkpoints/step-*"))


def test_a_mistake_ends_a_job_at_once(slurm: Slurm, data: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    job = submitted(slurm, "train.sbatch", ASKED, f"{run} {options(data, run)} --training.max_stepps=3", log)
    until(slurm, lambda: gone(slurm, job), log, 120)
    assert "max_stepps" in log.read_text(errors="replace") and "Traceback" not in log.read_text(errors="replace")
    assert slurm.ask("scontrol", "show", "job", job).count("Restarts=0") == 1

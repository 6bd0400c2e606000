"""launch/slurm/train.sbatch, with stand-ins for srun, scontrol and python: what is queued again, and what is not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.runs import ROOT

SCRIPT = ROOT / "launch" / "slurm" / "train.sbatch"
COMMANDS = {
    "srun": """
while [[ $1 == --* ]]; do shift; done
SLURM_PROCID=1 SLURM_LOCALID=0 SLURM_NTASKS=2 exec "$@"
""",
    "scontrol": """
case $1 in
  show) printf 'node7\\nnode8\\n';;
  requeue) echo "$2" >> "$cluster/requeued";;
esac
""",
    # An attempt of the run: it comes to a step, and ends with a code.
    "python": """
printf '%s\\n' "$@" > "$cluster/arguments"
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT" > "$cluster/ranks"
while [ "$1" != --output_dir ]; do shift; done
mkdir -p "$2/checkpoints/retired-step-99" "$2/checkpoints/.writing-step-98"
read -r code step < "$cluster/attempt"
if [ "$step" != 0 ]; then mkdir -p "$(printf '%s/checkpoints/step-%08d' "$2" "$step")"; fi
exit "$code"
""",
}


class Job:
    """A job of the script, started again by hand where Slurm would do it."""

    def __init__(self, folder: Path, number: int = 20017) -> None:
        self.folder, self.number, self.said = folder, number, ""
        self._bin = folder / "bin"
        self._bin.mkdir(exist_ok=True)
        for name, text in COMMANDS.items():
            (self._bin / name).write_text(f"#!/bin/bash\ncluster='{folder}'\n{text.lstrip()}")
            (self._bin / name).chmod(0o755)

    def run(self, *arguments: str, ends: int = 0, at: int = 0) -> tuple[int, bool]:
        """One start of the job, in which the run comes to a step and ends: (exit code, whether it is queued again)."""
        (self.folder / "attempt").write_text(f"{ends} {at}\n")
        requeued = self.folder / "requeued"
        requeued.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", SCRIPT, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=60, check=False,
            env={
                **os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}", "SLURM_JOB_ID": str(self.number),
                "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_CPUS_PER_TASK": "1",
            },
        )  # fmt: skip
        self.said = done.stderr
        assert not requeued.exists() or requeued.read_text() == f"{self.number}\n"
        return done.returncode, requeued.exists()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_ranks_and_arguments_arrive_as_they_are(job: Job) -> None:
    assert job.run("my runs/a b", "--objective.name", "dpo", "--data.train=x  y.jsonl") == (0, False)
    arguments = (job.folder / "arguments").read_text().splitlines()
    assert arguments == [
        "launch/train.py", "--ds_config", "ds_configs/zero3.json", "--output_dir", "my runs/a b", "--resume", "auto",
        "--objective.name", "dpo", "--data.train=x  y.jsonl",
    ]  # fmt: skip
    assert (job.folder / "ranks").read_text().split() == ["1", "0", "2", "node7", "20017"]


@pytest.mark.parametrize("code", [0, 2, 130])
def test_what_another_try_would_not_change(job: Job, code: int) -> None:
    assert job.run("my runs/a b", ends=code, at=5) == (code, False)


def test_a_run_that_was_stopped_is_queued_again_however_often(job: Job) -> None:
    for _ in range(5):
        assert job.run("runs/r", ends=75, at=3) == (75, True)
    assert not (job.folder / "runs" / "r" / ".restarts").exists()


@pytest.mark.parametrize("run", ["runs/r", "my runs/a b"])
def test_a_run_that_gets_on_is_queued_again_however_often(job: Job, run: str) -> None:
    for step in (0, 0, 8, 8, 9, 10, 10, 100):
        assert job.run(run, ends=1, at=step) == (1, True), step
    assert "exit code 1 at step 100, 0 restarts in vain" in job.said


@pytest.mark.parametrize("run", ["runs/r", "my runs/a b"])
@pytest.mark.parametrize("step", [0, 10])
def test_it_is_given_up_after_two_restarts_in_vain(job: Job, run: str, step: int) -> None:
    assert job.run(run, ends=1, at=step) == (1, True)
    assert job.run(run, ends=137, at=step) == (137, True)
    assert job.run(run, ends=75, at=step) == (75, True)  # says nothing about failures
    assert job.run(run, ends=1, at=step) == (3, False)
    assert f"given up: exit code 1, and 2 restarts have not come past step {step} of {run}" in job.said


def test_a_job_of_its_own_starts_to_count_anew(job: Job) -> None:
    for _ in range(2):
        assert job.run("runs/r", ends=1, at=4) == (1, True)
    later = Job(job.folder, number=job.number + 1)
    assert [later.run("runs/r", ends=1, at=4) for _ in range(3)] == [(1, True), (1, True), (3, False)]
    assert [later.run("runs/r", ends=1, at=4) for _ in range(3)] == [(1, True), (1, True), (3, False)]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--objective.name", "dpo"]])
def test_without_a_run_it_says_how_it_is_used(job: Job, arguments: list[str]) -> None:
    assert job.run(*arguments) == (2, False)
    assert job.said == "usage: sbatch launch/slurm/train.sbatch runs/NAME [OPTIONS OF launch/train.py]\n"
    assert not (job.folder / "arguments").exists()


def test_it_is_not_given_up_by_forgetting(job: Job) -> None:
    """Where nothing can be noted, a failure is the end."""
    (job.folder / "runs").write_text("a file")
    assert job.run("runs/r", ends=1) == (1, False)

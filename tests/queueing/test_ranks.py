"""A training's ranks on several nodes of Slurm: what is asked for, and what srun starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsepo_dist.queueing.job import JOB, Job
from sparsepo_dist.queueing.resources import Slurm
from sparsepo_dist.queueing.slurm import SlurmQueue, run_in_allocation
from tests.support.evaluation_jobs import ROOT
from tests.support.fake_slurm import FakeSlurm


def test_a_job_that_says_so_has_several_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeSlurm(tmp_path / "cluster", monkeypatch)
    cluster.busy()
    jobs = [Job(tmp_path / name, name) for name in ("two", "one")]
    for job, described in zip(jobs, ({"nodes": 2}, {}), strict=True):
        job.folder.mkdir()
        (job.folder / JOB).write_text(json.dumps({"command": ["-V"], **described}))
    SlurmQueue(tmp_path / "slurm", Slurm(gpus=8), 0, label="test").advance(jobs)
    assert [(cluster.asked(job)["nodes"], cluster.asked(job)["ntasks-per-node"]) for job in cluster.jobs] == [
        ("2", "1"), ("1", "1"),
    ]  # fmt: skip
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert run_in_allocation(str(jobs[0].folder), 0) == 0
    assert not jobs[0].log.exists(), "the keeper is on the first node alone"


_SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1" >> asked; shift; done
for n in 0 1 2 3; do SLURM_PROCID=$n SLURM_LOCALID=$((n % 2)) SLURM_NTASKS=4 "$@" || code=$?; done
exit $code
"""
_SCRIPT = """
import os, sys
print(*(os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")), *sys.argv[1:])
sys.exit(3 * (os.environ["RANK"] == "2"))
"""


def test_ranks_know_their_places_and_their_exit_code_is_passed_on(tmp_path: Path) -> None:
    for name, text in {"srun": _SRUN, "scontrol": "#!/bin/bash\necho node7; echo node8\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "script.py").write_text(_SCRIPT)
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "45",
        "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_CPUS_PER_TASK": "8",
    }  # fmt: skip
    words = [sys.executable, "-m", "sparsepo_dist.queueing.ranks", "2", "script.py", "--beta=1"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines() == [f"{n} {n % 2} 4 node7 20045 --beta=1" for n in range(4)]
    asked = (tmp_path / "asked").read_text().split()
    assert {"--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=4", "--overlap"} <= set(asked)

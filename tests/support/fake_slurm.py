"""A cluster of one node without accounting as far as its commands go: sbatch, srun, squeue, and scancel."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

# A job is a folder with its script and its state, which is renamed into place: squeue reads while it changes.
_COMMANDS = {
    "sbatch": """
if [ -f REFUSED ]; then cat REFUSED >&2; exit 1; fi
id=$(($(cat last) + 1)); echo $id > last
mkdir $id; cp "$1" $id/script; echo PENDING > $id/state
echo "Submitted batch job $id"
if [ ! -f BUSY ]; then cd "$there"; setsid slurmd $id < /dev/null > /dev/null 2>&1 & fi
""",
    "slurmd": """
id=$1; turn() { echo "$1" > $cluster/$id/.state; mv $cluster/$id/.state $cluster/$id/state; }
echo $$ > $id/process; turn RUNNING; cd "$there"
trap : USR2
export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_JOB_NODELIST=node7
if bash $cluster/$id/script > $cluster/$id/log 2>&1; then turn COMPLETED; else turn FAILED; fi
""",
    "srun": """
cd "$there"
while [[ $1 == --* ]]; do
  case $1 in --output) out=$2; shift 2;; --error) err=$2; shift 2;; *) shift;; esac
done
out=${out//%j/$SLURM_JOB_ID}; err=${err//%j/$SLURM_JOB_ID}
SLURM_PROCID=0 SLURM_LOCALID=0 exec "$@" > "${out//%t/0}" 2> "${err//%t/0}"
""",
    "sacct": """
echo "Slurm accounting storage is disabled" >&2; exit 1
""",
    "squeue": """
[ "$1 $2" = "--noheader --format=%A" ] || exit 1
if [ -f DOWN ]; then echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; fi
for job in [0-9]*; do
  case $(cat $job/state) in PENDING|RUNNING) echo $job;; esac
done
""",
    "scancel": """
echo "CANCELLED by 0" > $1/.state; mv $1/.state $1/state
if [ -f $1/process ]; then kill -TERM -- -$(cat $1/process); fi
""",
}


class FakeSlurm:
    """The cluster in a folder, its commands first on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, commands = folder, folder / "bin"
        commands.mkdir(parents=True)
        for name, text in _COMMANDS.items():
            (commands / name).write_text(f"#!/bin/bash\ncluster={folder}; there=$PWD; cd $cluster\n{text.lstrip()}")
            (commands / name).chmod(0o755)
        # submitit remembers in a process how jobs ended, by number
        (folder / "last").write_text(str(random.randrange(10**7, 9 * 10**7)))
        monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")

    def busy(self) -> None:
        """Jobs wait from now on."""
        (self.folder / "BUSY").touch()

    def free(self) -> None:
        """All that wait start."""
        (self.folder / "BUSY").unlink()
        for job in self.jobs:
            if self.state(job) == "PENDING":
                subprocess.Popen(["slurmd", job], start_new_session=True)

    def refuse(self, reason: str) -> None:
        """Jobs are not taken any more."""
        (self.folder / "REFUSED").write_text(reason)

    def time_out(self, job: str) -> None:
        """As at 90 s before the end: the signal goes to all processes of the job."""
        subprocess.run(["bash", "-c", f"kill -USR2 -- -$(cat {self.folder / job / 'process'})"], check=True)

    def cancel(self, job: str) -> None:
        """As the administrator does."""
        subprocess.run(["scancel", job], check=True)

    @property
    def jobs(self) -> list[str]:
        """Numbers of all that it was given, in order."""
        return sorted(path.name for path in self.folder.iterdir() if path.name.isdecimal())

    def state(self, job: str) -> str:
        return (self.folder / job / "state").read_text().strip()

    def asked(self, job: str) -> dict[str, str]:
        """Options of a job's script."""
        lines = (self.folder / job / "script").read_text().splitlines()
        options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")]
        return {name: value for name, _, value in (option.partition("=") for option in options)}

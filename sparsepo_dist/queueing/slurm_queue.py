"""Which jobs Slurm has, as `squeue` tells with accounting and without."""

from __future__ import annotations

import subprocess
import time

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import read_json
from sparsepo_dist.queueing.job import Job

SUBMITTED = "slurm.json"
_GOOD_FOR_SECONDS = 2.0
# --me is newer than many clusters
_COMMAND = ("squeue", "--noheader", "--format=%A", "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING")


class SlurmsJobs:
    """What waits or runs there."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._at = 0.0

    def has(self, number: str) -> bool:
        """Whether Slurm still has a job; that it has not is asked anew each time.

        Raises:
            UserError: squeue cannot be asked.
        """
        if number not in self._seen or time.monotonic() - self._at > _GOOD_FOR_SECONDS:
            self._seen, self._at = _asked(), time.monotonic()
        return number in self._seen


def _asked() -> set[str]:
    try:
        done = subprocess.run(_COMMAND, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"slurm: squeue cannot be asked which jobs it has: {error}") from None
    if done.returncode:
        said = shortened(done.stderr.strip(), 300) or f"exit code {done.returncode}"
        raise UserError(f"slurm: squeue does not say which jobs it has: {said}")
    return set(done.stdout.split())


def given_as(job: Job) -> str | None:
    """The number under which Slurm was given a job last; None where it never was. Raises UserError for a bad file."""
    file = job.folder / SUBMITTED
    if not file.is_file():
        return None
    try:
        return str(read_json(file)["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error}); remove it to submit {job.name} again") from None

"""Jobs as Slurm's, through submitit. There, too, a job's lock decides who runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.evaluation.jobs import keeper
from sparsepo_dist.evaluation.jobs.spec import Slurm
from sparsepo_dist.evaluation.jobs.store import FAILED, Job, State
from sparsepo_dist.evaluation.results import write_whole
from sparsepo_dist.files import read_json

_SUBMITTED = "slurm.json"


class SlurmQueue:
    """Submits jobs, each once as long as Slurm has it.

    Args:
        folder: for submitit's scripts and logs.
        settings: what a job asks for.
        retries: how often a job that dies is started again, within its allocation.
        cluster: submitit's name of the executor.

    Raises:
        UserError: submitit or Slurm is not here.
    """

    def __init__(self, folder: Path, settings: Slurm, retries: int, *, cluster: str = "slurm") -> None:
        self._executor, self._job_class = _executor(folder, settings, cluster)
        self._retries = retries
        self._jobs: dict[str, Any] = {}
        self._times: dict[str, int] = {}

    def advance(self, jobs: Iterable[Job]) -> None:
        """Submit those that are not done and that Slurm does not have; returns at once.

        One that Slurm dropped before its end (cancelled, out of time) is submitted again as often as it may be retried.

        Raises:
            UserError: Slurm refuses a job.
        """
        for job in jobs:
            # It may have ended between the looks: how it stands now is known where nobody has it any more.
            if job.read().final or job.held() or self._pending(job) or job.read().final:
                continue
            if self._times.get(job.name, 0) > self._retries:
                self._give_up(job)
                continue
            submitted = self._submitted(job)
            self._jobs[job.name] = submitted
            self._times[job.name] = self._times.get(job.name, 0) + 1
            write_whole(job.folder / _SUBMITTED, json.dumps({"id": submitted.job_id}) + "\n")

    def stop(self) -> None:
        """Nothing here: what Slurm has goes on without us."""

    def _submitted(self, job: Job) -> Any:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self._executor.update_parameters(name=f"evaluate-{job.model}-{job.suite}")
        try:
            return self._executor.submit(run_in_allocation, str(job.folder), self._retries)
        except (FailedJobError, FailedSubmissionError, FileNotFoundError) as error:
            said = shortened(str(error), 300) or "sbatch failed and said nothing"
            raise UserError(f"slurm: the job {job.name} was not taken: {said}") from None

    def _give_up(self, job: Job) -> None:
        claim = job.claim()
        if claim is not None:
            with claim:
                if not job.read().final:
                    reason = f"Slurm dropped it {self._times[job.name]} times; {self._executor.folder} has its logs"
                    job.write(State(FAILED, reason=reason))

    def _pending(self, job: Job) -> bool:
        if job.name not in self._jobs:
            file = job.folder / _SUBMITTED
            if not file.is_file():
                return False
            try:
                number = read_json(file)["id"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file} cannot be read ({error}); remove it to submit {job.name} again") from None
            self._jobs[job.name] = self._job_class(self._executor.folder, number)
        return not self._jobs[job.name].done()


def run_in_allocation(folder: str, retries: int) -> int:
    """What Slurm starts: the job's keeper, which claims it or finds it taken."""
    return subprocess.call(keeper.command(Path(folder), retries))


def _executor(folder: Path, settings: Slurm, cluster: str) -> tuple[Any, Any]:
    """submitit's executor, and its class of jobs: an AutoExecutor's own cannot ask Slurm how they stand."""
    try:
        import submitit
    except ImportError:
        raise UserError("resources.backend: slurm needs submitit: pip install submitit") from None
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    except RuntimeError:
        raise UserError(
            "resources.backend: slurm: there is no srun here; submit from a machine of the cluster, or say local"
        ) from None
    # submitit leaves out what is None. 0 GPUs are not asked for: clusters without any refuse the very question.
    executor.update_parameters(
        timeout_min=settings.minutes, gpus_per_node=settings.gpus or None, cpus_per_task=settings.cpus,
        mem_gb=settings.memory_gb, tasks_per_node=1, nodes=1, slurm_partition=settings.partition,
        slurm_account=settings.account,
    )  # fmt: skip
    return executor, submitit.SlurmJob if cluster == "slurm" else submitit.LocalJob

"""Jobs as Slurm's, through submitit. There, too, a job's lock decides who runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparsepo_dist.disk import write_whole
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.queueing import keeper
from sparsepo_dist.queueing.job import FAILED, JOB, Job, State, record
from sparsepo_dist.queueing.resources import Slurm
from sparsepo_dist.queueing.slurm_queue import SUBMITTED, SlurmsJobs, given_as


class SlurmQueue:
    """Submits jobs, each once as long as Slurm has it.

    Args:
        folder: for submitit's scripts and logs.
        settings: what a job asks for.
        retries: how often a job that dies is started again, within its allocation.
        label: what Slurm calls jobs, before their names.
        cluster: submitit's name of the executor.

    Raises:
        UserError: submitit or Slurm is not here.
    """

    def __init__(self, folder: Path, settings: Slurm, retries: int, *, label: str, cluster: str = "slurm") -> None:
        self._executor = _executor(folder, settings, cluster)
        self._has = SlurmsJobs().has if cluster == "slurm" else self._runs_here
        self._retries = retries
        self._label = label
        self._times: dict[str, int] = {}

    def advance(self, jobs: Iterable[Job]) -> list[Job]:
        """Submit those that are not done and that Slurm does not have; these. Returns at once.

        One that Slurm dropped before its end (cancelled, out of time) is submitted again as often as it may be retried.

        Raises:
            UserError: Slurm refuses a job, or does not say what it has.
        """
        given = []
        for job in jobs:
            # It may have ended between the looks: how it stands now is known where nobody has it any more.
            if job.read().final or job.held() or self._pending(job) or job.read().final:
                continue
            if self._times.get(job.name, 0) > self._retries:
                self._give_up(job)
                continue
            submitted = self._submitted(job)
            self._times[job.name] = self._times.get(job.name, 0) + 1
            write_whole(job.folder / SUBMITTED, json.dumps({"id": submitted.job_id}) + "\n")
            given.append(job)
        return given

    def stop(self) -> None:
        """Nothing here: what Slurm has goes on without us."""

    def _submitted(self, job: Job) -> Any:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        nodes = int(record(job.folder / JOB).get("nodes", 1))
        self._executor.update_parameters(name=f"{self._label}-{job.name.replace('/', '-')}", nodes=nodes)
        try:
            return self._executor.submit(run_in_allocation, str(job.folder), self._retries)
        except (FailedJobError, FailedSubmissionError, FileNotFoundError) as error:
            said = shortened(str(error), 300) or "sbatch failed and said nothing"
            raise UserError(f"slurm: the job {job.name} was not taken: {said}") from None

    def _runs_here(self, number: str) -> bool:
        import submitit

        return not submitit.LocalJob(self._executor.folder, number).done()

    def _give_up(self, job: Job) -> None:
        claim = job.claim()
        if claim is not None:
            with claim:
                if not job.read().final:
                    reason = f"Slurm dropped it {self._times[job.name]} times; {self._executor.folder} has its logs"
                    job.write(State(FAILED, reason=reason))

    def _pending(self, job: Job) -> bool:
        number = given_as(job)
        return number is not None and self._has(number)


def run_in_allocation(folder: str, retries: int) -> int:
    """What Slurm starts on each node: on the first the job's keeper, which claims it or finds it taken."""
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return 0  # the keeper's command comes to these nodes by itself
    process = subprocess.Popen(keeper.command(Path(folder), retries))
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        # submitit's own handlers end in an exception here, before the keeper could say why it ends.
        signal.signal(number, lambda number, _: process.send_signal(number))
    return process.wait()


def _executor(folder: Path, settings: Slurm, cluster: str) -> Any:
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
    return executor

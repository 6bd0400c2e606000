"""A plan's jobs, carried out: what is missing runs, what is done stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.jobs.spec import Plan
from sparsepo_dist.evaluation.jobs.store import EvaluationJob, JobStore
from sparsepo_dist.evaluation.target import target
from sparsepo_dist.queueing.job import DONE
from sparsepo_dist.queueing.queue import POLL_SECONDS, Progress, Queue, ended_with, queue_on, raise_failures
from sparsepo_dist.queueing.slurm import SlurmQueue


def submit(plan: Plan) -> str:
    """Run a plan's jobs to their end, or hand them to Slurm; what to say then.

    Jobs that failed or were interrupted before have all their attempts again. Any number of processes may submit one
    file at once: they share the work.

    Raises:
        UserError: a model that is not there, or a job that was done with another model or other options.
        RunError: some jobs failed.
        StoppedError: a signal asked to stop.
    """
    if not plan.models:
        raise UserError(f"{plan.file}: models is missing: it names what is evaluated, as NAME: PATH")
    store = JobStore(plan.output)
    jobs = [job for name in plan.models for job in _jobs_of(plan, store, name)]
    queue = queue_of(plan)
    if isinstance(queue, SlurmQueue):
        given = len(queue.advance(jobs))
        done = sum(job.read().state == DONE for job in jobs)
        return (
            f"{given} of {len(jobs)} jobs were given to Slurm, which had {len(jobs) - given - done} of them already; "
            f"{done} are done. `status {plan.file}` shows them"
        )
    with ended_with(queue), Progress("evaluating", "job") as progress:
        while not all(state.final for state in progress.show(jobs)):
            queue.advance(jobs)
            time.sleep(POLL_SECONDS)
    raise_failures(jobs)
    return f"All {len(jobs)} jobs are done; `collect {plan.file}` gathers their results"


def _jobs_of(plan: Plan, store: JobStore, model: str) -> Iterator[EvaluationJob]:
    path = plan.models[model]
    try:
        found = target(path, name=model)
    except UserError as error:
        reason = str(error).removeprefix("--model: ")
        raise UserError(f"{plan.file}: line {plan.lines[model]}: models.{model}: {reason}") from None
    path = str(Path(path).resolve()) if Path(path).is_dir() else path
    written = newest_weights(Path(found.adapter or found.model))
    for suite in plan.suites:
        job = store.add(model, path, suite)
        job.renew(written)
        yield job


def newest_weights(folder: Path) -> float:
    """When the weights in a folder were written, in seconds since 1970; 0 where there are none."""
    return max((file.stat().st_mtime for file in folder.glob("*.safetensors")), default=0.0)


def queue_of(plan: Plan) -> Queue:
    """The queue that a plan asks for. Raises UserError where its resources are not here."""
    return queue_on(plan.resources, plan.slurm, plan.output, "evaluate")

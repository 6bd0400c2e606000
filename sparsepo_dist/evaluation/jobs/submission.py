"""A plan's jobs, carried out: what is missing runs, what is done stays."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Protocol

from tqdm import tqdm

from sparsepo_dist.errors import RunError, StoppedError, UserError
from sparsepo_dist.evaluation.jobs.devices import places
from sparsepo_dist.evaluation.jobs.local import LocalQueue
from sparsepo_dist.evaluation.jobs.slurm import SlurmQueue
from sparsepo_dist.evaluation.jobs.spec import Plan
from sparsepo_dist.evaluation.jobs.store import DONE, FAILED, RUNNING, Job, JobStore, State
from sparsepo_dist.evaluation.target import target

POLL_SECONDS = 0.2
_MOST_NAMED = 10


class Queue(Protocol):
    """Where jobs run."""

    def advance(self, jobs: Iterable[Job]) -> object:
        """Start what can be started of these; returns at once."""

    def stop(self) -> None:
        """End what would not go on without this process."""


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
    with ended_with(queue), Progress() as progress:
        while not all(state.final for state in progress.show(jobs)):
            queue.advance(jobs)
            time.sleep(POLL_SECONDS)
    raise_failures(jobs)
    return f"All {len(jobs)} jobs are done; `collect {plan.file}` gathers their results"


def _jobs_of(plan: Plan, store: JobStore, model: str) -> Iterator[Job]:
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
        store.renew(job, written)
        yield job


def newest_weights(folder: Path) -> float:
    """When the weights in a folder were written, in seconds since 1970; 0 where there are none."""
    return max((file.stat().st_mtime for file in folder.glob("*.safetensors")), default=0.0)


def queue_of(plan: Plan) -> Queue:
    """The queue that a plan asks for.

    Raises:
        UserError: its resources are not here.
    """
    if plan.resources.backend == "slurm":
        return SlurmQueue(plan.output / "slurm", plan.slurm, plan.resources.retries)
    return LocalQueue(places(plan.resources, plan.output), plan.resources.retries)


@contextmanager
def ended_with(queue: Queue) -> Iterator[None]:
    """SIGTERM raises StoppedError inside; however it ends, the queue is stopped."""
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        queue.stop()


def _stop(number: int, _: object) -> NoReturn:
    raise StoppedError(
        f"by {signal.Signals(number).name}; jobs that ran wait for the next submission, the rest is done"
    )


class Progress(tqdm):  # type: ignore[type-arg]
    """One line: how many jobs there are, are done, failed and run."""

    def __init__(self) -> None:
        super().__init__(desc="evaluating", unit="job")
        self._told: set[str] = set()
        self._shown = ""

    def show(self, jobs: Sequence[Job]) -> list[State]:
        """Look at all jobs; how they stand. A failure is told once. Raises as `Job.now`."""
        states = [job.now() for job in jobs]
        counts = Counter(state.state for state in states)
        self.total, self.n = len(jobs), counts[DONE] + counts[FAILED]
        counted = f"{counts[DONE]} done, {counts[FAILED]} failed, {counts[RUNNING]} running"
        if counted != self._shown:  # into a file, every refresh is a line
            self._shown = counted
            self.set_postfix_str(counted)
        for job, state in zip(jobs, states, strict=True):
            if state.state == FAILED and job.name not in self._told:
                self._told.add(job.name)
                self.write(f"{job.name} failed: {state.reason} ({job.log})")
        return states


def raise_failures(jobs: Sequence[Job]) -> None:
    """Raise RunError if some jobs failed, with why and where their logs are."""
    failed = [(job, state) for job in jobs if (state := job.read()).state == FAILED]
    if failed:
        lines = [f"{job.name}: {state.reason} ({job.log})" for job, state in failed[:_MOST_NAMED]]
        more = f"\n  and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
        raise RunError(
            f"{len(failed)} of {len(jobs)} jobs failed; submitting again runs them again:\n  "
            + "\n  ".join(lines)
            + more
        )

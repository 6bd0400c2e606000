"""Where jobs run, the line that shows how they stand, and what is said of those that failed."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Protocol

from tqdm import tqdm

from sparsepo_dist.errors import RunError, StoppedError
from sparsepo_dist.queueing.devices import places
from sparsepo_dist.queueing.job import DONE, FAILED, RUNNING, Job, State
from sparsepo_dist.queueing.local import LocalQueue
from sparsepo_dist.queueing.resources import Resources, Slurm
from sparsepo_dist.queueing.slurm import SlurmQueue

POLL_SECONDS = 0.2
_MOST_NAMED = 10


class Queue(Protocol):
    """Where jobs run."""

    def advance(self, jobs: Iterable[Job]) -> object:
        """Start what can be started of these; returns at once."""

    def stop(self) -> None:
        """End what would not go on without this process."""


def queue_on(resources: Resources, slurm: Slurm, output: Path, label: str) -> Queue:
    """The queue that resources ask for; those who share an output share this machine's places.

    Raises:
        UserError: the resources are not here.
    """
    if resources.backend == "slurm":
        return SlurmQueue(output / "slurm", slurm, resources.retries, label=label)
    return LocalQueue(places(resources, output), resources.retries)


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

    def __init__(self, doing: str, unit: str) -> None:
        super().__init__(desc=doing, unit=unit)
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
    failed = [job for job in jobs if job.read().state == FAILED]
    if failed:
        raise failure(failed, f"{len(jobs)} jobs", "submitting again runs them again")


def failure(failed: Sequence[Job], of: str, again: str, more: Sequence[str] = ()) -> RunError:
    """What is said of jobs that failed: why, and where their logs are.

    Args:
        of: how many of what there are.
        again: what has them run again.
        more: lines that follow.
    """
    lines = [f"{job.name}: {job.read().reason} ({job.log})" for job in failed[:_MOST_NAMED]]
    lines += [f"and {len(failed) - _MOST_NAMED} more"] if len(failed) > _MOST_NAMED else []
    return RunError(f"{len(failed)} of {of} failed; {again}:\n  " + "\n  ".join([*lines, *more]))

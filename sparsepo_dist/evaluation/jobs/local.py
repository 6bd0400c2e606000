"""Runs jobs on this machine, one in each place at a time. Several such queues may share one output."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterable, Sequence

from sparsepo_dist.evaluation.jobs import keeper
from sparsepo_dist.evaluation.jobs.devices import Place
from sparsepo_dist.evaluation.jobs.store import Job


class LocalQueue:
    """Jobs that this process has started.

    Args:
        places: where jobs run.
        retries: how often a job that dies is started again.
    """

    def __init__(self, places: Sequence[Place], retries: int) -> None:
        self._places = places
        self._retries = retries
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def advance(self, jobs: Iterable[Job]) -> None:
        """Start what can be started of these, in their order; returns at once."""
        self._running = {name: process for name, process in self._running.items() if process.poll() is None}
        for job in jobs:
            if len(self._running) >= len(self._places):
                return
            if job.name not in self._running and not job.read().final and not self._start(job):
                return

    def _start(self, job: Job) -> bool:
        """False if there is no place. A job that another process holds is passed over."""
        claim = job.claim()
        if claim is None:
            return True
        with claim:
            if job.read().final:  # since we looked
                return True
            for place in self._places:
                taken = place.take()
                if taken is not None:
                    with taken:
                        held = (claim, taken)
                        self._running[job.name] = keeper.start(job, self._retries, place.environment, held)
                    return True
        return False

    def stop(self) -> None:
        """End everything that was started; it waits for the next submission."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            process.wait()
        self._running = {}

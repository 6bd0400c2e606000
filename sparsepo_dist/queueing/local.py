"""Runs jobs on this machine, one in each place at a time. Several such queues may share one output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence

from sparsepo_dist.errors import RunError
from sparsepo_dist.queueing import keeper
from sparsepo_dist.queueing.devices import Place
from sparsepo_dist.queueing.job import Job


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
        self._lost: Counter[str] = Counter()

    def advance(self, jobs: Iterable[Job]) -> None:
        """Start what can be started of these, in their order; returns at once.

        Raises:
            RunError: jobs cannot even note how they stand.
            UserError: what a job noted cannot be read.
        """
        for name, process in list(self._running.items()):
            if process.poll() is not None:
                del self._running[name]
                self._look_after(name, process)
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

    def _look_after(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """A keeper has ended; one that was killed could not end what its driver had started."""
        if process.returncode in keeper.NOTED:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        self._lost[name] += 1
        if self._lost[name] > self._retries + 1:  # an attempt that was noted would have made it fail before
            raise RunError(f"{name} cannot be kept (code {process.returncode}, see above); is there room on the disk?")

    def stop(self) -> None:
        """End everything that was started; it waits for the next submission."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            process.wait()
        self._running = {}

"""Outputs that only other stages need, such as weights: kept while any experiment is at those, then removed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO

from sparsepo_dist.disk import remove
from sparsepo_dist.experiments.stages.work import Work
from sparsepo_dist.queueing.job import DONE, State
from sparsepo_dist.queueing.locks import lock, share

_IN_USE = "in-use"
_POLL_SECONDS = 0.1


class Temporary:
    """What this process needs of stages' temporary outputs; another that is at work on the same stages has its own."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._used: dict[str, IO[bytes]] = {}

    def hold(self, name: str) -> None:
        """Have nobody remove a stage's outputs."""
        while name not in self._used:
            held = share(self._place(name))
            if held is not None:
                self._used[name] = held
            else:
                time.sleep(_POLL_SECONDS)  # somebody is removing them

    def reopen(self, name: str) -> None:
        """Have a stage that is held run again, if it was done and its outputs are gone."""
        job = self._work.jobs[name]
        claim = job.claim()
        if claim is not None:
            with claim:
                if job.read().state == DONE and self._work.lacks(name):
                    job.write(State())

    def release(self, name: str) -> bool:
        """Remove a stage's outputs; not where another process holds them, as whoever is last removes them."""
        if name in self._used:
            self._used.pop(name).close()
        alone = lock(self._place(name))
        if alone is None:
            return False
        with alone:
            for part in self._work.stages[name].temporary:
                path = self._work.output(name) / part
                if path.exists():
                    aside = path.with_name(f".removed-{part}")
                    remove(aside)
                    path.rename(aside)  # a part of it would pass for a whole one
                    remove(aside)
        return True

    def _place(self, name: str) -> Path:
        return self._work.jobs[name].folder / _IN_USE

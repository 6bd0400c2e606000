"""Runs what is missing of an experiment's stages, each when what it needs is there, and removes what nobody needs."""

from __future__ import annotations

import time

from sparsepo_dist.experiments.stages.temporary import Temporary
from sparsepo_dist.experiments.stages.work import Work
from sparsepo_dist.queueing.job import DONE, Job
from sparsepo_dist.queueing.queue import POLL_SECONDS, Progress, Queue, ended_with


def run_stages(work: Work, queue: Queue, *, again: bool = True) -> dict[str, str]:
    """Until every stage is done, has failed, or needs one that has; stage -> how it stands then.

    With `again`, stages that failed or were interrupted before have all their attempts again. Any number of processes
    may run the same stages at once: they share the work.

    Raises:
        UserError: a file of a job cannot be read.
        StoppedError: a signal asked to stop.
    """
    work.write()
    temporary = Temporary(work)
    for job in work.jobs.values() if again else ():
        job.renew()
    states = {name: job.now().state for name, job in work.jobs.items()}
    lent = [name for name, stage in work.stages.items() if stage.temporary]
    for name in lent:
        temporary.hold(name)
    for name in work.open(states):
        if states[name] == DONE:
            temporary.reopen(name)
    with ended_with(queue), Progress("experiment", "stage") as progress:
        while True:
            known = progress.show(list(work.jobs.values()))
            states = {name: state.state for name, state in zip(work.jobs, known, strict=True)}
            _release(work, temporary, lent, states)
            blocked = work.blocked(states)
            if all(state.final or name in blocked for name, state in zip(work.jobs, known, strict=True)):
                return states
            queue.advance(_ready(work, states))
            time.sleep(POLL_SECONDS)


def _ready(work: Work, states: dict[str, str]) -> list[Job]:
    """Jobs that are not done and whose needs are, in the order of the stages: what uses a run before the next run."""
    return [
        work.jobs[name]
        for name, stage in work.stages.items()
        if states[name] != DONE and all(states[need] == DONE for need in stage.needs)
    ]


def _release(work: Work, temporary: Temporary, lent: list[str], states: dict[str, str]) -> None:
    """What no stage of this experiment will use any more; one that failed will, when it is tried again."""
    for name in list(lent):
        if states[name] == DONE and all(states[user] == DONE for user in work.users(name)):
            temporary.release(name)
            lent.remove(name)

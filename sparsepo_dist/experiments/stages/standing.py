"""How stages stand, in words."""

from __future__ import annotations

from collections.abc import Mapping

from sparsepo_dist.experiments.stages.work import Work
from sparsepo_dist.queueing.job import DONE, FAILED, RUNNING
from sparsepo_dist.queueing.queue import failure


def standing(work: Work) -> str:
    """A line for every stage."""
    states = {name: job.now() for name, job in work.jobs.items()}
    blocked = work.blocked({name: state.state for name, state in states.items()})
    width = max(map(len, work.jobs), default=0)
    lines = []
    for name, job in work.jobs.items():
        state = states[name]
        if name in blocked:
            told = f"not run: needs {blocked[name]}, which failed"
        elif state.state == DONE:
            told = f"done; {job.results}"
        elif state.state == RUNNING:
            told = f"running: process {state.pid} on {state.host}, attempt {state.attempts}; {job.log}"
        else:
            told = f"{state.state}{'' if state.reason is None else f': {state.reason}; {job.log}'}"
        lines.append(f"{name:<{width}}  {told}")
    return "\n".join(lines)


def raise_failures(work: Work, states: Mapping[str, str]) -> None:
    """Raise RunError if some stages failed, with why, where their logs are, and how many wait for them."""
    failed = [work.jobs[name] for name, state in states.items() if state == FAILED]
    if failed:
        blocked = len(work.blocked(states))
        waiting = [f"{blocked} stages were not run, which need those"] if blocked else []
        raise failure(failed, f"{len(states)} stages", "running the experiment again tries them again", waiting)

"""Why a stage is to be run, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsepo_dist.experiments.stages.work import Work
from sparsepo_dist.queueing.job import DONE, FAILED, INTERRUPTED, JOB, QUEUED, RUNNING, Job, record

_MOST_NAMED = 4


def reasons(work: Work) -> dict[str, str]:
    """Stages that are to be run -> why. Raises UserError where a job's file cannot be read."""
    states = {name: job.now() for name, job in work.jobs.items()}
    found = {}
    for name in work.open({name: state.state for name, state in states.items()}):
        state = states[name]
        if state.state == DONE:
            found[name] = "what it left is removed, and needed again"
        elif state.state == RUNNING:
            found[name] = "it runs"
        elif state.state in (FAILED, INTERRUPTED):
            found[name] = f"{state.state}: {state.reason}"
        elif state.state == QUEUED and state.reason is not None:
            found[name] = f"it died: {state.reason}"
        else:
            found[name] = _changes(work, name)
    return {name: found[name] for name in work.jobs if name in found}


def _changes(work: Work, name: str) -> str:
    """What is different from the last stage of that name, if there was one."""
    kind = work.root / work.stages[name].kind
    own = work.jobs[name].folder
    others = [
        file
        for file in kind.glob(f"*/{JOB}")
        if file.parent != own and record(file).get("stage") == name and Job(file.parent, name).read().state == DONE
    ]
    if not others:
        return "never run"
    before, now = record(max(others, key=_written)), work.described(name)
    changed = list(_differences(before["configuration"], now["configuration"]))
    changed += ["its code"] if before.get("code") != now["code"] else []
    changed += [f"{need}" for need, identity in now["needs"].items() if before["needs"].get(need) != identity]
    more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
    return f"differs from the last of its name in {', '.join(changed[:_MOST_NAMED]) or 'the content of a file'}{more}"


def _written(file: Path) -> float:
    return file.stat().st_mtime


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for field in sorted(before.keys() | now.keys()):
        if before.get(field) != now.get(field):
            yield f"{field} ({before.get(field)} -> {now.get(field)})"

"""What an experiment's runs gave, gathered for its tables and figures: runs.json in its output."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict

from sparsepo_dist.disk import write_whole
from sparsepo_dist.experiments.contracts import START, Experiment, TrainedRun
from sparsepo_dist.experiments.files.selection import Planned
from sparsepo_dist.experiments.files.spec import ExperimentFile
from sparsepo_dist.experiments.settled import Settled
from sparsepo_dist.experiments.stages.work import Work
from sparsepo_dist.queueing.job import DONE, FAILED

RUNS = "runs.json"


def collect(file: ExperimentFile, settled: Settled) -> Experiment:
    """The experiment's runs as they stand now, also written to `RUNS`."""
    work = settled.work
    states = {name: job.now() for name, job in work.jobs.items()}
    blocked = work.blocked({name: state.state for name, state in states.items()})
    runs, missing = [], {}
    for one in (*settled.starts, *settled.planned):
        run = one.run
        own = [] if run.method == START else [run.name]
        suites = [f"{run.name}/{suite.name}" for suite in one.suites]
        for name in (*own, *suites):
            state = states[name]
            if name in blocked:
                missing[name] = f"not run: needs {blocked[name]}, which failed"
            elif state.state == FAILED:
                missing[name] = f"failed: {state.reason}"
            elif state.state != DONE:
                missing[name] = "not run yet"
        if any(name not in missing for name in own or suites):
            runs.append(_trained(work, one, missing))
    experiment = Experiment(file.name, tuple(runs), missing, settled.selected, file.draws)
    write_whole(file.output / RUNS, json.dumps(asdict(experiment), indent=1, default=str) + "\n")
    return experiment


def _trained(work: Work, one: Planned, missing: dict[str, str]) -> TrainedRun:
    run = one.run
    done = {suite.name: suite for suite in one.suites if f"{run.name}/{suite.name}" not in missing}
    trained = run.method != START
    return TrainedRun(
        run.name, run.method, run.values, work.output(run.name) if trained else None,
        work.identities[run.name if trained else f"{run.name}/{one.suites[0].name}"],
        shlex.join(["python", *work.commands[run.name]]) if trained else "",
        {name: work.output(f"{run.name}/{name}") for name in done},
        {name: suite.driver.stem for name, suite in done.items()},
    )  # fmt: skip

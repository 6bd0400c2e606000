"""An experiment with what is known of it now: its stages, where their results are, and what was selected by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparsepo_dist.errors import UserError, did_you_mean
from sparsepo_dist.evaluation.jobs.finals import final_of
from sparsepo_dist.experiments.files.graph import stages_of
from sparsepo_dist.experiments.files.runs import Run
from sparsepo_dist.experiments.files.selection import HIGHEST, Planned, Point, Select, point_of
from sparsepo_dist.experiments.files.spec import ExperimentFile
from sparsepo_dist.experiments.files.suites import starts
from sparsepo_dist.experiments.stages.work import Work
from sparsepo_dist.queueing.job import DONE


@dataclass(frozen=True)
class Settled:
    """An experiment as it stands."""

    work: Work
    planned: tuple[Planned, ...]
    starts: tuple[Planned, ...]
    """What runs start from that the experiment did not train."""
    selected: Mapping[str, str]
    """Method -> name of the run that was selected, of several seeds the first."""


def settle(file: ExperimentFile) -> Settled:
    """Look at the results that are there.

    Raises:
        UserError: the file says what cannot be, or the number that selects is not among those of its suite.
    """
    chosen: dict[str, Point] = {}
    selected: dict[str, str] = {}
    if file.select is not None:
        work = _work(file, {})
        for method in file.methods:
            best = _best(file, file.select, work, [run for run in file.runs if run.method == method])
            if best is not None:
                chosen[method], selected[method] = point_of(best), best.name
    planned = file.planned(chosen)
    return Settled(_work(file, chosen), tuple(planned), tuple(starts(file, planned)), selected)


def _work(file: ExperimentFile, chosen: Mapping[str, Point]) -> Work:
    return Work(stages_of(file, chosen), file.stages, file.code)


def _best(file: ExperimentFile, select: Select, work: Work, runs: list[Run]) -> Run | None:
    """The first run of the best point by the mean over its seeds; None while not all of the method's runs are done,
    and where each point has a run without the number, which is no candidate."""
    stages = {run.name: f"{run.name}/{select.suite}" for run in runs}
    if any(work.jobs[stage].now().state != DONE for stage in stages.values()):
        return None
    driver = next(suite.driver.name for suite in file.suites if suite.name == select.suite)
    found = {run.name: final_of(driver, work.output(stages[run.name])).numbers for run in runs}
    known = {name: None for numbers in found.values() for name in numbers}
    if select.metric not in known:
        hint = did_you_mean(select.metric, known) or f"; there are {', '.join(known) or 'none'}"
        stage = stages[runs[0].name]
        raise UserError(f"{file.file}: select.metric: {stage} has no number {select.metric!r}{hint}")
    means: dict[str, float] = {}
    for run in runs:
        alike = [found[other.name] for other in runs if point_of(other) == point_of(run)]
        if all(select.metric in numbers for numbers in alike):  # not so where a training ended in NaN
            means[run.name] = sum(numbers[select.metric] for numbers in alike) / len(alike)
    if not means:
        return None
    best = max(means.values()) if select.best == HIGHEST else min(means.values())
    return next(run for run in runs if means.get(run.name) == best)

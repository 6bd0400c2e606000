"""The section `select`: by which number a method's best run is chosen, and what only the chosen ones are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsepo_dist.errors import did_you_mean
from sparsepo_dist.evaluation.jobs.spec import Suite
from sparsepo_dist.experiments.files.runs import SFT, Run
from sparsepo_dist.experiments.files.training import SEED, mapping, seeds_of
from sparsepo_dist.fields import known_entries, scalar
from sparsepo_dist.files import Entry

HIGHEST, LOWEST = "highest", "lowest"
Point = Mapping[str, Any]
"""What a grid sets, without the seed."""


@dataclass(frozen=True)
class Select:
    """How the best of each method is chosen."""

    suite: str
    metric: str
    """One of the numbers that `collect` of jobs has of the suite."""
    best: str
    """HIGHEST or LOWEST."""
    seeds: tuple[int, ...] = ()
    """Further seeds of those that are chosen."""


@dataclass(frozen=True)
class Planned:
    """A run and what it is evaluated by."""

    run: Run
    suites: tuple[Suite, ...]


def read_select(section: Entry, suites: Sequence[Suite]) -> Select:
    """The section. Raises ValueError."""
    known = ("suite", "metric", "best", "seeds")
    given = {entry.name: entry for entry in known_entries(mapping(section, "select"), known, "select.")}
    for name in ("suite", "metric"):
        if name not in given:
            raise ValueError(f"line {section.line}: select.{name} is missing")
    suite = scalar(given["suite"], "select.suite", "str")
    names = [one.name for one in suites]
    if suite not in names:
        hint = did_you_mean(suite, names) or f"; there are {', '.join(names) or 'none'}"
        raise ValueError(f"line {given['suite'].line}: select.suite: {suite!r} is none of suites{hint}")
    best = scalar(given["best"], "select.best", "str") if "best" in given else HIGHEST
    if best not in (HIGHEST, LOWEST):
        raise ValueError(f"line {given['best'].line}: select.best: {best!r} is neither {HIGHEST} nor {LOWEST}")
    seeds = seeds_of(given["seeds"], "select.seeds") if "seeds" in given else ()
    return Select(suite, scalar(given["metric"], "select.metric", "str"), best, seeds)


def point_of(run: Run) -> dict[str, Any]:
    """What the grid set of a run, without its seed."""
    return {name: value for name, value in run.values.items() if name != SEED}


def planned(
    runs: Sequence[Run], suites: Sequence[Suite], select: Select | None, further: Sequence[Suite],
    chosen: Mapping[str, Point],
) -> list[Planned]:  # fmt: skip
    """All runs of an experiment as far as they are known, each with its suites.

    Args:
        runs: those of the grids.
        suites: of each of them.
        select: how the best of each method is chosen, if it is.
        further: suites of the start and of those that are chosen.
        chosen: by method what was chosen so far.
    """
    found: list[Planned] = []
    for run in runs:
        best = run.name == SFT or (run.method in chosen and point_of(run) == chosen[run.method])
        found.append(Planned(run, (*suites, *(further if best else ()))))
    for method, point in chosen.items():
        (first, *others) = [run for run in runs if run.method == method and point_of(run) == point]
        seeds = {run.values.get(SEED) for run in (first, *others)}
        for seed in select.seeds if select is not None else ():
            if seed not in seeds:
                found.append(Planned(first.at({**point, SEED: seed}), (*suites, *further)))
    return found

"""The YAML file of an experiment, or one message that names its line, field, and the nearest known one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsepo_dist.errors import UserError, did_you_mean
from sparsepo_dist.evaluation.jobs.spec import Suite, read_suite
from sparsepo_dist.experiments.contracts import DRAWS
from sparsepo_dist.experiments.files.chains import linked, others_of
from sparsepo_dist.experiments.files.preparation import check_preparation, read_rounds
from sparsepo_dist.experiments.files.runs import PREPARE, SFT, Run, runs_of, with_fields
from sparsepo_dist.experiments.files.selection import Planned, Point, Select, planned, read_select
from sparsepo_dist.experiments.files.training import (
    Preparation,
    Training,
    cache_of,
    grid_of,
    lines_of,
    list_of,
    read_preparation,
    read_training,
    seeds_of,
)
from sparsepo_dist.experiments.stages.work import CODES
from sparsepo_dist.fields import check_name, named, read_fields, scalar
from sparsepo_dist.files import Entry
from sparsepo_dist.queueing.resources import Resources, Slurm, read_resources, read_slurm

_FIELDS = (
    "name", "output", "stages", "keep_weights", "code", "prepare", "sft", "base", "cache", "methods", "grid", "seeds",
    "rounds", "suites", "select", "selected_suites", "draws", "ranks", "resources", "slurm",
)  # fmt: skip
_TAKEN = re.compile(rf"({PREPARE}|{SFT}|start|cache)(-|$)")


@dataclass(frozen=True)
class ExperimentFile:
    """What an experiment's file says."""

    file: Path
    name: str
    output: Path
    """Folder of what is collected and drawn."""
    stages: Path
    """Folder of all stages' results, which experiments share."""
    prepare: Preparation | None
    sft: Training | None
    methods: Mapping[str, Training]
    runs: tuple[Run, ...]
    """The start first."""
    suites: tuple[Suite, ...]
    """Of every run."""
    select: Select | None
    """How the best run of each method is chosen."""
    selected_suites: tuple[Suite, ...]
    """Of the start and of those that are chosen."""
    draws: tuple[str, ...]
    ranks: int
    """Of every training."""
    keep_weights: bool
    code: str
    """Whether stages depend on the source that they import or on the package's version: one of CODES."""
    resources: Resources
    slurm: Slurm

    def undecided(self, chosen: Mapping[str, Point]) -> bool:
        """Whether stages that are not known yet will need what is there."""
        return self.select is not None and not self.methods.keys() <= chosen.keys()

    def planned(self, chosen: Mapping[str, Point]) -> list[Planned]:
        """All runs as far as they are known where so much was chosen, by method."""
        return planned(self.runs, self.suites, self.select, self.selected_suites, chosen)


def read_experiment(file: Path, scripts: Path) -> ExperimentFile:
    """Parse a file.

    Args:
        file: the YAML file.
        scripts: folder of the drivers that suites call by name.

    Raises:
        UserError: it cannot be read, or says what cannot be.
    """
    try:
        form = "it must hold name, base and methods, as docs/experiments.md shows"
        return _experiment(file, read_fields(file, _FIELDS, ("name", "methods"), form), scripts)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}") from None


def _experiment(file: Path, given: Mapping[str, Entry], scripts: Path) -> ExperimentFile:
    name = _of(given, "name", "str", "")
    check_name(name, given["name"].line, "name")
    sft = read_training(given["sft"], "sft", Training()) if "sft" in given else None
    methods = _methods(given)
    runs = _linked(file, sft, methods)
    suites = _suites(given, "suites", scripts, runs)
    select = _select(given["select"], suites, runs) if "select" in given else None
    ranks, slurm = _of(given, "ranks", "int", 1), read_slurm(given.get("slurm"))
    if ranks == 0 or slurm.nodes == 0 or ranks % slurm.nodes:
        raise ValueError(f"ranks: {ranks} ranks do not go evenly on {slurm.nodes} nodes (slurm.nodes)")
    return ExperimentFile(
        file=file,
        name=name,
        output=Path(_of(given, "output", "str", f"runs/experiments/{name}")).absolute(),
        stages=Path(_of(given, "stages", "str", "runs/stages")).absolute(),
        prepare=_preparation(given["prepare"]) if "prepare" in given else None,
        sft=sft,
        methods=methods,
        runs=tuple(runs),
        suites=suites,
        select=select,
        selected_suites=_suites(given, "selected_suites", scripts, runs, {suite.name for suite in suites}),
        draws=_draws(given["draws"]) if "draws" in given else (),
        ranks=ranks,
        keep_weights=_of(given, "keep_weights", "bool", False),
        code=_one_of(given, "code", CODES),
        resources=read_resources(given.get("resources")),
        slurm=slurm,
    )


def _draws(entry: Entry) -> tuple[str, ...]:
    names = tuple(str(value) for value in list_of(entry, "draws"))
    for name in names:
        if name not in DRAWS:
            hint = did_you_mean(name, DRAWS) or f"; there are {', '.join(DRAWS)}"
            raise ValueError(f"line {entry.line}: draws: {name!r} cannot be drawn{hint}")
    return names


def _methods(given: Mapping[str, Entry]) -> dict[str, Training]:
    base = read_training(given["base"], "base", Training()) if "base" in given else Training()
    base = dataclasses.replace(
        base,
        grid=grid_of(given["grid"], "grid") if "grid" in given else base.grid,
        seeds=seeds_of(given["seeds"], "seeds") if "seeds" in given else base.seeds,
        cache=cache_of(given["cache"], "cache") if "cache" in given else base.cache,
        lines={**base.lines, **(lines_of(given["grid"]) if "grid" in given else {})},
    )
    rounds = read_rounds(given["rounds"]) if "rounds" in given else None
    methods: dict[str, Training] = {}
    for entry in named(given["methods"], "methods"):
        if _TAKEN.match(entry.name):
            raise ValueError(
                f"line {entry.line}: methods.{entry.name}: stages of another kind are called so; name it otherwise"
            )
        methods[entry.name] = read_training(entry, f"methods.{entry.name}", base, prepares=True)
        if rounds is not None:
            methods |= rounds.of(entry.name, methods[entry.name])
    return methods


def _linked(file: Path, sft: Training | None, methods: Mapping[str, Training]) -> list[Run]:
    """Runs, and what they need of each other; preparations of their own are looked at as the first run has them."""
    runs = linked(runs_of(file, sft, methods))
    looked_at: set[str] = set()
    for run in runs:
        if run.training.prepare is not None and run.method not in looked_at:
            looked_at.add(run.method)
            check_preparation(run.training.prepare)
    return runs


def _select(section: Entry, suites: Sequence[Suite], runs: Sequence[Run]) -> Select:
    needing = next((run for run in runs if others_of(run.options, runs)), None)
    if needing is not None:
        raise ValueError(
            f"line {section.line}: select: {needing.name} needs another run, and further seeds of what is selected "
            "would have none to need; leave select out"
        )
    return read_select(section, suites)


def _suites(
    given: Mapping[str, Entry], field: str, scripts: Path, runs: Sequence[Run], taken: Collection[str] = ()
) -> tuple[Suite, ...]:
    if field not in given:
        return ()
    if field != "suites" and "select" not in given:
        raise ValueError(f"line {given[field].line}: {field}: nothing is selected; the section select says how")
    found = []
    for entry in named(given[field], field):
        if entry.name in taken:
            raise ValueError(f"line {entry.line}: {field}.{entry.name} is one of suites already; name it otherwise")
        found.append(_suite(entry, scripts, runs))
    return tuple(found)


def _suite(entry: Entry, scripts: Path, runs: Sequence[Run]) -> Suite:
    """A suite, looked at by its driver as the first run has it. Raises ValueError."""

    def stand_in(text: str) -> str:
        try:
            return str(with_fields(text, runs[0], {}))
        except KeyError as error:
            name = error.args[0]
            near = did_you_mean(name, runs[0].configuration)
            raise ValueError(
                f"line {entry.line}: suites.{entry.name}: {{{name}}} is neither {PREPARE}, {SFT} nor a field of "
                f"runs{near}"
            ) from None

    return read_suite(entry, scripts, stand_in)


def _one_of(given: Mapping[str, Entry], name: str, known: Sequence[str]) -> str:
    value = _of(given, name, "str", known[0])
    if value not in known:
        raise ValueError(f"line {given[name].line}: {name}: {value!r} is not one of {', '.join(known)}")
    return str(value)


def _of(given: Mapping[str, Entry], name: str, kind: str, default: Any) -> Any:
    return scalar(given[name], name, kind) if name in given else default


def _preparation(section: Entry) -> Preparation:
    found = read_preparation(section, "prepare")
    check_preparation(found)
    return found

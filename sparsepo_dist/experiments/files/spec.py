"""The YAML file of an experiment, or one message that names its line, field, and the nearest known one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.jobs.spec import Suite, read_suite
from sparsepo_dist.fields import is_tagged, known_entries, named, scalar
from sparsepo_dist.files import Entry, entries, parse_yaml, read_text
from sparsepo_dist.queueing.resources import Resources, Slurm, read_resources, read_slurm
from sparsepo_dist.runs.recipes.files import read_recipe

_FIELDS = (
    "name", "output", "stages", "keep_weights", "prepare", "sft", "base", "cache", "methods", "grid", "suites", "draws",
    "ranks", "resources", "slurm",
)  # fmt: skip
Options = Mapping[str, Any]
"""Dotted field of a run, or option of a command -> value."""


@dataclass(frozen=True)
class Preparation:
    """`sparsepo prepare NAME`."""

    name: str
    options: Options


@dataclass(frozen=True)
class Training:
    """A recipe and what is changed in it."""

    recipe: Path | None = None
    options: Options = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Field -> its values; a run for each combination."""
    cache: bool = False
    """Whether what the reference says of every pair is written once, for all runs that share it."""

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of the grid's values."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


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
    suites: tuple[Suite, ...]
    draws: tuple[str, ...]
    ranks: int
    """Of every training."""
    keep_weights: bool
    resources: Resources
    slurm: Slurm


def read_experiment(file: Path, scripts: Path) -> ExperimentFile:
    """Parse a file.

    Args:
        file: the YAML file.
        scripts: folder of the drivers that suites call by name.

    Raises:
        UserError: it cannot be read, or says what cannot be.
    """
    try:
        root = parse_yaml(read_text(file, str(file)))
        if not isinstance(root, yaml.MappingNode):
            raise ValueError("it must hold name, base and methods, as docs/experiments.md shows")
        return _experiment(file, {entry.name: entry for entry in known_entries(root, _FIELDS, "")}, scripts)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}") from None


def _experiment(file: Path, given: Mapping[str, Entry], scripts: Path) -> ExperimentFile:
    for name in ("name", "methods"):
        if name not in given:
            raise ValueError(f"{name} is missing")
    name = _of(given, "name", "str", "")
    base = _training(given["base"], "base", Training()) if "base" in given else Training()
    base = Training(base.recipe, base.options, _grid(given["grid"], "grid") if "grid" in given else {},
                    _of(given, "cache", "bool", False))  # fmt: skip
    return ExperimentFile(
        file=file,
        name=name,
        output=Path(_of(given, "output", "str", f"runs/experiments/{name}")).absolute(),
        stages=Path(_of(given, "stages", "str", "runs/stages")).absolute(),
        prepare=_preparation(given["prepare"]) if "prepare" in given else None,
        sft=_training(given["sft"], "sft", Training()) if "sft" in given else None,
        methods={
            entry.name: _training(entry, f"methods.{entry.name}", base) for entry in named(given["methods"], "methods")
        },
        suites=tuple(read_suite(entry, scripts) for entry in named(given["suites"], "suites"))
        if "suites" in given
        else (),
        draws=tuple(str(value) for value in _list(given["draws"], "draws")) if "draws" in given else (),
        ranks=_of(given, "ranks", "int", 1),
        keep_weights=_of(given, "keep_weights", "bool", False),
        resources=read_resources(given.get("resources")),
        slurm=read_slurm(given.get("slurm")),
    )


def _of(given: Mapping[str, Entry], name: str, kind: str, default: Any) -> Any:
    return scalar(given[name], name, kind) if name in given else default


def _preparation(section: Entry) -> Preparation:
    fields = {
        entry.name: entry for entry in known_entries(_mapping(section, "prepare"), ("name", "options"), "prepare.")
    }
    if "name" not in fields:
        raise ValueError(f"line {section.line}: prepare.name is missing: what `sparsepo prepare` is to make")
    options = _options(fields["options"], "prepare.options") if "options" in fields else {}
    return Preparation(scalar(fields["name"], "prepare.name", "str"), options)


def _training(section: Entry, field: str, base: Training) -> Training:
    """A section on a base: its recipe and grid stand for the base's, its options are laid over them."""
    known = ("recipe", "options", "grid", "cache")
    empty = is_tagged(section.node, "null")
    fields = {} if empty else {e.name: e for e in known_entries(_mapping(section, field), known, f"{field}.")}
    recipe = base.recipe
    if "recipe" in fields:
        recipe = Path(scalar(fields["recipe"], f"{field}.recipe", "str")).absolute()
        try:
            read_recipe(str(recipe))
        except UserError as error:
            raise ValueError(f"line {fields['recipe'].line}: {field}.{error}") from None
    elif recipe is None and field != "base":
        raise ValueError(f"line {section.line}: {field}.recipe is missing: a file such as those in launch/recipes/")
    options = _options(fields["options"], f"{field}.options") if "options" in fields else {}
    grid = _grid(fields["grid"], f"{field}.grid") if "grid" in fields else base.grid
    cache = scalar(fields["cache"], f"{field}.cache", "bool") if "cache" in fields else base.cache
    return Training(recipe, {**base.options, **options}, grid, cache)


def _options(section: Entry, field: str) -> dict[str, Any]:
    return {entry.name: _value(entry.node) for entry in entries(_mapping(section, field))}


def _grid(section: Entry, field: str) -> dict[str, tuple[Any, ...]]:
    return {entry.name: tuple(_list(entry, f"{field}.{entry.name}")) for entry in entries(_mapping(section, field))}


def _list(section: Entry, field: str) -> list[Any]:
    value = _value(section.node)
    if not isinstance(value, list) or not value:
        raise ValueError(f"line {section.line}: {field}: a list of values is wanted, as [A, B]")
    return value


def _mapping(section: Entry, field: str) -> yaml.MappingNode:
    if not isinstance(section.node, yaml.MappingNode):
        raise ValueError(f"line {section.line}: {field} is a section and must hold fields")
    return section.node


def _value(node: yaml.Node) -> Any:
    """As it would be read from a command line, but for numbers such as 1e-4, which YAML 1.1 takes for texts."""
    value = yaml.constructor.SafeConstructor().construct_document(node)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value

"""The trainings of an experiment: a run for each point of a method's grid, its name and its whole configuration."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.contracts import KnownFields
from sparsepo_dist.experiments.files.remembered import remembered
from sparsepo_dist.experiments.files.training import Options, Training, plain_value
from sparsepo_dist.experiments.stages.stage import filled, placeholders
from sparsepo_dist.files import leaves
from sparsepo_dist.runs.recipes.files import read_recipe

PREPARE, SFT = "prepare", "sft"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._+=@-]+")
CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Run:
    """A training of an experiment."""

    name: str
    method: str
    values: Mapping[str, Any]
    """What grid and seeds set."""
    training: Training

    def at(self, values: Mapping[str, Any]) -> Run:
        """A run of the same method at other values."""
        texts = {field: _NOT_IN_NAMES.sub("-", as_text(value)) for field, value in values.items()}
        parts = [f"{_short(field, list(values))}{text}" for field, text in texts.items()]
        return Run("-".join([self.method, *parts]), self.method, values, self.training)

    @property
    def options(self) -> dict[str, Any]:
        """What the file says over the recipe."""
        return {**self.training.options, **self.values}

    @property
    def configuration(self) -> dict[str, Any]:
        """Fields that recipe, options and point set."""
        return {**recipe_values(str(self.training.recipe)), **self.options}

    def field(self, name: str) -> Any:
        """The value of a field, by default the one that it has where nothing is said."""
        found = self.configuration
        return found[name] if name in found else defaults()[name]


def runs_of(file: Path, sft: Training | None, methods: Mapping[str, Training]) -> list[Run]:
    """All of them, the start first.

    Raises:
        UserError: two have one name.
    """
    found = [] if sft is None else [Run(SFT, SFT, {}, sft)]
    for method, training in methods.items():
        found += [Run(method, method, {}, training).at(point) for point in training.points()]
    names = [run.name for run in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{file}: two runs are called {twice}; rename a method, or remove a value that stands twice")
    return found


def fields_in(value: Any) -> set[str]:
    """Names in braces in a text, or in texts within lists and mappings, that must be fields of runs."""
    return placeholders(value) - {PREPARE, SFT}


def with_fields(value: Any, run: Run, known: Mapping[str, str]) -> Any:
    """A value with what is known in place of its name in braces, and the run's own value in place of a field's.

    Raises:
        KeyError: a name is neither known nor a field.
    """
    fields = sorted(fields_in(value) - known.keys())
    return filled(value, {**known, **{name: as_text(run.field(name)) for name in fields}})


def _short(field: str, fields: Sequence[str]) -> str:
    last = field.rpartition(".")[2]
    return last if [name.rpartition(".")[2] for name in fields].count(last) == 1 else field


def as_text(value: Any) -> str:
    """As a command line has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value)


def arguments_of(options: Options) -> list[str]:
    """A command line's words."""
    return [f"--{name}={as_text(value)}" for name, value in options.items()]


def flagged(options: Options) -> list[str]:
    """As `arguments_of`, for commands whose true and false are a flag that is there or not."""
    flags = [f"--{name}" for name, value in options.items() if value is True]
    return [*flags, *arguments_of({name: value for name, value in options.items() if not isinstance(value, bool)})]


def recipe_values(recipe: str) -> dict[str, Any]:
    """Fields of a recipe and of those below it. Raises UserError where they cannot be read."""
    return dict(_recipe_values(recipe))


@cache
def _recipe_values(recipe: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for file in read_recipe(recipe):
        constructed = yaml.constructor.SafeConstructor().construct_document(file.fields)
        values |= {name: plain_value(value) for name, value in leaves(constructed)}
    return values


def digest(value: Any) -> str:
    """A short name for what is alike."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def known_fields() -> KnownFields:
    """What a run's configuration has where nothing is said, and which of an objective's fields make a difference."""
    return KnownFields(defaults(), remembered(("objectives",), "used", _asked_used))


def _asked_used() -> dict[str, list[str]]:
    from sparsepo_dist.objectives import used_fields  # torch, for an answer that is seldom new

    return {name: list(fields) for name, fields in used_fields().items()}


@cache
def defaults() -> dict[str, Any]:
    """By dotted name, what every field of a run's configuration has where nothing is said."""
    return dict(remembered(("runs.config",), "defaults", _asked_defaults))


def _asked_defaults() -> dict[str, Any]:
    from sparsepo_dist.runs.config import RunConfig  # torch, for an answer that is seldom new

    return dict(leaves(asdict(RunConfig())))

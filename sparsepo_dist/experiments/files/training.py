"""The sections of an experiment's file that say what is trained: a recipe, what is changed in it, a grid, seeds."""

from __future__ import annotations

import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sparsepo_dist.errors import UserError, did_you_mean
from sparsepo_dist.fields import is_tagged, known_entries, scalar
from sparsepo_dist.files import Entry, entries
from sparsepo_dist.preparation.registry import NAMES
from sparsepo_dist.runs.recipes.files import read_recipe

SEED = "training.seed"
ALL_LAYERS = "all_layers"
OWN = "prepare-own"
"""Stands for the folder of a method's own preparation."""
_TRAIN = "data.train"
_EXPONENT = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+")
Options = Mapping[str, Any]
"""Dotted field of a run, or option of a command -> value."""


class Preparation(NamedTuple):
    """`sparsepo prepare NAME`."""

    name: str
    options: Options
    line: int = 0
    """Where its name stands."""
    field: str = "prepare"


@dataclass(frozen=True)
class Training:
    """A recipe and what is changed in it."""

    recipe: Path | None = None
    options: Options = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Field -> its values; a run for each combination."""
    seeds: tuple[int, ...] = ()
    """Values of `training.seed`, for each of these."""
    runs: tuple[Options, ...] = ()
    """Points one by one, in place of a grid and the base's seeds."""
    cache: bool | str = False
    """Whether what the reference says of every pair is written once, for all runs that share it. ALL_LAYERS: also the
    hidden states of all layers, which are large."""
    prepare: Preparation | None = None
    """Of its runs, each for itself."""
    line: int = 0
    """Where it stands."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Field -> where it stands."""

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of the grid's values, or every point; each with every seed."""
        grid = [dict(zip(self.grid, found, strict=True)) for found in itertools.product(*self.grid.values())]
        points = self.runs or grid
        for point, seed in itertools.product(points, [{SEED: seed} for seed in self.seeds] or [{}]):
            yield {**point, **seed}

    def on_pairs_of(self, prepare: Preparation) -> Training:
        """The training with a preparation of its own, on what that makes."""
        return dataclasses.replace(self, prepare=prepare, options={**self.options, _TRAIN: f"{{{OWN}}}/train.jsonl"})


def read_training(section: Entry, field: str, base: Training, *, prepares: bool = False) -> Training:
    """A section on a base: its recipe, grid, seeds and cache stand for the base's, its options are laid over them.

    Args:
        prepares: whether a preparation of its own may stand in it.

    Raises:
        ValueError: what cannot be, with its line.
    """
    known = ("recipe", "options", "grid", "seeds", "runs", "cache", *(["prepare"] if prepares else []))
    empty = is_tagged(section.node, "null")
    given = {} if empty else {e.name: e for e in known_entries(mapping(section, field), known, f"{field}.")}
    recipe = _recipe(given["recipe"], field) if "recipe" in given else base.recipe
    if recipe is None and field != "base":
        raise ValueError(f"line {section.line}: {field}.recipe is missing: a file such as those in launch/recipes/")
    options = options_of(given["options"], f"{field}.options") if "options" in given else {}
    if "grid" in given and "runs" in given:
        raise ValueError(
            f"line {given['runs'].line}: {field} has a grid, and runs in place of one; leave out one of them"
        )
    training = Training(
        recipe,
        {**base.options, **options},
        grid_of(given["grid"], f"{field}.grid") if "grid" in given else base.grid,
        seeds_of(given["seeds"], f"{field}.seeds") if "seeds" in given else () if "runs" in given else base.seeds,
        _runs(given["runs"], f"{field}.runs") if "runs" in given else (),
        cache_of(given["cache"], f"{field}.cache") if "cache" in given else base.cache,
        None,
        section.line,
        {**base.lines, **{name: line for part in given.values() for name, line in lines_of(part).items()}},
    )
    if training.seeds and any(SEED in point for point in (training.grid, *training.runs)):
        raise ValueError(
            f"line {section.line}: {field} has seeds, and {SEED} in its grid or runs too; leave out one of them"
        )
    if "prepare" in given:
        return training.on_pairs_of(read_preparation(given["prepare"], f"{field}.prepare"))
    return training


def read_preparation(section: Entry, field: str) -> Preparation:
    """A section `prepare`; what its options may be `check_preparation` says. Raises ValueError."""
    fields = {entry.name: entry for entry in known_entries(mapping(section, field), ("name", "options"), f"{field}.")}
    if "name" not in fields:
        raise ValueError(f"line {section.line}: {field}.name is missing: what `sparsepo prepare` is to make")
    options = options_of(fields["options"], f"{field}.options") if "options" in fields else {}
    name, line = scalar(fields["name"], f"{field}.name", "str"), fields["name"].line
    if name not in NAMES:
        hint = did_you_mean(name, NAMES) or f"; there are {', '.join(NAMES)}"
        raise ValueError(f"line {line}: {field}.name: {name!r} cannot be prepared{hint}")
    return Preparation(name, options, line, field)


def _recipe(entry: Entry, field: str) -> Path:
    recipe = Path(scalar(entry, f"{field}.recipe", "str")).absolute()
    try:
        read_recipe(str(recipe))
    except UserError as error:
        raise ValueError(f"line {entry.line}: {field}.{error}") from None
    return recipe


def lines_of(section: Entry) -> dict[str, int]:
    """Names of fields in a section, or in a list of sections, and where each stands. Raises ValueError."""
    nodes = section.node.value if isinstance(section.node, yaml.SequenceNode) else [section.node]
    return {
        entry.name: entry.line
        for node in nodes
        if isinstance(node, yaml.MappingNode)
        for entry in entries(node)
    }  # fmt: skip


def _runs(section: Entry, field: str) -> tuple[Options, ...]:
    if not isinstance(section.node, yaml.SequenceNode) or not section.node.value:
        raise ValueError(f"line {section.line}: {field}: a list of points is wanted, as [{{objective.beta: 0.1}}]")
    return tuple(options_of(Entry(field, node, node.start_mark.line + 1), field) for node in section.node.value)


def options_of(section: Entry, field: str) -> dict[str, Any]:
    """Names and values. Raises ValueError."""
    return {
        entry.name: _value(entry.node, entry.line, f"{field}.{entry.name}")
        for entry in entries(mapping(section, field))
    }


def grid_of(section: Entry, field: str) -> dict[str, tuple[Any, ...]]:
    """Fields and lists of their values. Raises ValueError."""
    found = {}
    for entry in entries(mapping(section, field)):
        found[entry.name] = tuple(list_of(entry, f"{field}.{entry.name}"))
    return found


def seeds_of(entry: Entry, field: str) -> tuple[int, ...]:
    """A list of whole numbers. Raises ValueError."""
    seeds = list_of(entry, field)
    odd = next((seed for seed in seeds if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0), None)
    if odd is not None:
        raise ValueError(f"line {entry.line}: {field}: whole numbers, 0 or more, are wanted, found {odd!r}")
    return tuple(seeds)


def cache_of(entry: Entry, field: str) -> bool | str:
    """true, false or ALL_LAYERS. Raises ValueError."""
    value = _value(entry.node, entry.line, field)
    if not isinstance(value, bool) and value != ALL_LAYERS:
        raise ValueError(f"line {entry.line}: {field}: true, false or {ALL_LAYERS} is wanted, found {value!r}")
    return value


def list_of(section: Entry, field: str) -> list[Any]:
    """A list with something in it. Raises ValueError."""
    value = _value(section.node, section.line, field)
    if not isinstance(value, list) or not value:
        raise ValueError(f"line {section.line}: {field}: a list of values is wanted, as [A, B]")
    return value


def mapping(section: Entry, field: str) -> yaml.MappingNode:
    """The fields of a section. Raises ValueError where it has none."""
    if not isinstance(section.node, yaml.MappingNode):
        raise ValueError(f"line {section.line}: {field} is a section and must hold fields")
    return section.node


def _value(node: yaml.Node, line: int, field: str) -> Any:
    """Raises ValueError where it is none that a command line could have."""
    try:
        value = plain_value(yaml.constructor.SafeConstructor().construct_document(node))
        _check_value(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ValueError(
            f"line {line}: {field}: numbers, true, false, null and texts without control characters are wanted, and "
            "lists and mappings of them; put texts that look like dates in quotes"
        ) from None
    return value


def _check_value(value: Any) -> None:
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    for one in inner:
        _check_value(one)
    odd = isinstance(value, str) and any(unicodedata.category(character) == "Cc" for character in value)
    if odd or not isinstance(value, str | int | float | list | dict | None):
        raise ValueError


def plain_value(value: Any) -> Any:
    """As a command line would have it: numbers such as 1e-4 are texts to YAML 1.1."""
    if isinstance(value, list):
        return [plain_value(inner) for inner in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value

"""The YAML file of evaluation jobs, or one message that names its line, field, and the nearest known one."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sparsepo_dist.errors import UserError, did_you_mean, shortened
from sparsepo_dist.evaluation.arguments import refusal
from sparsepo_dist.fields import arguments, check_name, is_tagged, line_of, named, read_fields, scalar
from sparsepo_dist.files import Entry, entries
from sparsepo_dist.queueing.resources import Resources, Slurm, read_resources, read_slurm

_FIELDS = ("output", "models", "suites", "resources", "slurm", "keep_exported", "trust_remote_code")
_DRIVERS = ("code", "frontier", "leaderboard", "preference", "summary")


@dataclass(frozen=True)
class Suite:
    """One driver with its options."""

    name: str
    driver: Path
    """Its script, which takes --model and --output."""
    options: tuple[str, ...]
    """Further arguments."""


@dataclass(frozen=True)
class Plan:
    """A file of evaluation jobs."""

    file: Path
    output: Path
    """Everything is written below it."""
    models: dict[str, str]
    """Name to a model's folder, a run's, an adapter's, or a hub id."""
    suites: tuple[Suite, ...]
    resources: Resources
    slurm: Slurm
    keep_exported: bool
    """Keep the model folders that `watch` makes of checkpoints; by default they go when they are evaluated."""
    trust_remote_code: bool
    """Let a checkpoint's model run its own Python code when it is exported."""
    lines: dict[str, int]
    """Where each model stands."""


def read_plan(file: Path, scripts: Path) -> Plan:
    """Parse a file.

    Args:
        file: the YAML file.
        scripts: folder of the drivers that suites call by name.

    Raises:
        UserError: it cannot be read, or says what cannot be.
    """
    try:
        form = "it must hold output, models and suites, as docs/evaluation.md shows"
        return _plan(file, read_fields(file, _FIELDS, ("output", "suites"), form), scripts)
    except (OSError, ValueError) as error:  # a driver's path may be longer than paths can be
        raise UserError(f"{file}: {error}") from None


def _plan(file: Path, given: Mapping[str, Entry], scripts: Path) -> Plan:
    models = list(_models(given["models"])) if "models" in given else []
    resources, slurm = read_resources(given.get("resources")), read_slurm(given.get("slurm"))
    if slurm.nodes != 1:
        raise ValueError(f"line {line_of(given['slurm'], 'nodes')}: slurm.nodes: jobs of evaluation have one")
    return Plan(
        file=file,
        output=Path(scalar(given["output"], "output", "str")).absolute(),
        models={entry.name: scalar(entry, f"models.{entry.name}", "str") for entry in models},
        suites=tuple(read_suite(entry, scripts) for entry in named(given["suites"], "suites")),
        resources=resources,
        slurm=slurm,
        keep_exported="keep_exported" in given and scalar(given["keep_exported"], "keep_exported", "bool"),
        trust_remote_code="trust_remote_code" in given
        and scalar(given["trust_remote_code"], "trust_remote_code", "bool"),
        lines={entry.name: entry.line for entry in models},
    )


def _models(section: Entry) -> Iterator[Entry]:
    """Named models, or a list of paths that name themselves by their last part."""
    if not isinstance(section.node, yaml.SequenceNode):
        yield from named(section, "models")
        return
    seen: dict[str, int] = {}
    for node in section.node.value:
        line = node.start_mark.line + 1
        path = Path(scalar(Entry("", node, line), "models", "str"))
        name = path.parent.name if path.name == "final" else path.name
        if name in seen:
            raise ValueError(
                f"line {line}: models: two are called {name} (also in line {seen[name]}); write them as NAME: PATH"
            )
        seen[name] = line
        check_name(name, line, "models")
        yield Entry(name, node, line)


def read_suite(entry: Entry, scripts: Path, stand_in: Callable[[str], str] = str) -> Suite:
    """A suite: its driver and options, which the driver has looked at.

    Args:
        entry: its section.
        scripts: folder of the drivers that suites call by name.
        stand_in: what the driver looks at in place of a text in which names stand for values.

    Raises:
        ValueError: it says what cannot be.
    """
    name, node, line = entry
    options: list[str] = []
    driver, where = name, line
    if isinstance(node, yaml.MappingNode):
        for option in entries(node):
            field = f"suites.{name}.{option.name}"
            if option.name == "driver":
                driver, where = scalar(option, field, "str"), option.line
            elif option.name in ("model", "output"):
                raise ValueError(f"line {option.line}: {field}: every job is given its own; remove it")
            else:
                options += arguments(option, field)
    elif not is_tagged(node, "null"):
        raise ValueError(f"line {line}: suites.{name} must hold options of its driver, as OPTION: VALUE")
    script = _script(driver, where, name, scripts)
    if not driver.endswith(".py"):
        _check_options(driver, [stand_in(option) for option in options], name, node, line)
    return Suite(name, script, tuple(options))


def _check_options(driver: str, options: Sequence[str], suite: str, node: yaml.Node, line: int) -> None:
    """Have a driver of ours look at its options now, and not when its job runs. Raises ValueError."""
    module = importlib.import_module(f"sparsepo_dist.evaluation.{driver}.command")
    said = refusal(module.parser(), ["--model", "MODEL", "--output", "OUTPUT", *options])
    if said is None:
        return
    lines = {entry.name: entry.line for entry in entries(node)} if isinstance(node, yaml.MappingNode) else {}
    at = next((place for option, place in lines.items() if re.search(rf"--{re.escape(option)}\b", said)), line)
    raise ValueError(f"line {at}: suites.{suite}: {driver} does not take its options: {said}")


def _script(driver: str, line: int, suite: str, scripts: Path) -> Path:
    if driver.endswith(".py"):
        path = Path(driver).absolute()
        if not path.is_file():
            raise ValueError(f"line {line}: suites.{suite}: there is no driver {driver}")
        return path
    known = sorted(path.stem for path in scripts.glob("*.py") if path.stem in _DRIVERS)
    if driver not in known:
        hint = did_you_mean(driver, known) or f"; there are {', '.join(known)}"
        raise ValueError(
            f"line {line}: suites.{suite}: there is no driver {shortened(driver)}{hint}. `driver: NAME` gives a suite "
            "of another name its driver"
        )
    return scripts / f"{driver}.py"

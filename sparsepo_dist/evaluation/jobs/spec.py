"""The YAML file of evaluation jobs, or one message that names its line, field, and the nearest known one."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sparsepo_dist.errors import UserError, did_you_mean, shortened
from sparsepo_dist.evaluation.arguments import refusal
from sparsepo_dist.files import Entry, at_home, entries, parse_yaml, read_text

BACKENDS = ("local", "slurm")
LEAST_MINUTES = 5
"""submitit has Slurm signal a job 90 s before its time limit, which ends it; a driver takes a while to begin."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@-]*")
_TAG = "tag:yaml.org,2002:"
_DRIVERS = ("code", "frontier", "leaderboard", "summary")
_KINDS = {"int": "a whole number, 0 or more", "float": "a number", "bool": "true or false", "str": "text"}


@dataclass(frozen=True)
class Suite:
    """One driver with its options."""

    name: str
    driver: Path
    """Its script, which takes --model and --output."""
    options: tuple[str, ...]
    """Further arguments."""


@dataclass(frozen=True)
class Resources:
    """What jobs run on."""

    backend: str = "local"
    """`local`: here, by a queue over the devices. `slurm`: each job is one of Slurm's, through submitit."""
    jobs_at_once: int | None = None
    """On this machine; by default as many as its GPUs allow, without GPUs one."""
    gpus_per_job: int | None = None
    """By default one where there are GPUs."""
    threads_per_job: int | None = None
    """CPU threads; by default the cores over jobs_at_once."""
    retries: int = 1
    """How often a job that dies is started again. One that ends with code 2, a mistake of the user, is not."""


@dataclass(frozen=True)
class Slurm:
    """What a job asks of Slurm."""

    partition: str | None = None
    minutes: int = 240
    """Time limit; at least LEAST_MINUTES."""
    gpus: int = 1
    cpus: int = 4
    memory_gb: int = 32
    """Of the host, in Slurm's GB."""
    account: str | None = None


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
        root = parse_yaml(read_text(file, str(file)))
        if not isinstance(root, yaml.MappingNode):
            raise ValueError("it must hold output, models and suites, as docs/evaluation.md shows")
        return _plan(file, root, scripts)
    except (OSError, ValueError) as error:  # a driver's path may be longer than paths can be
        raise UserError(f"{file}: {error}") from None


def _plan(file: Path, root: yaml.MappingNode, scripts: Path) -> Plan:
    known = ("output", "models", "suites", "resources", "slurm", "keep_exported", "trust_remote_code")
    given = {entry.name: entry for entry in _known_entries(root, known, "")}
    for name in ("output", "suites"):
        if name not in given:
            raise ValueError(f"{name} is missing")
    models = list(_models(given["models"])) if "models" in given else []
    resources = _section(Resources, given.get("resources"))
    if resources.backend not in BACKENDS:
        line = _line_of(given["resources"], "backend")
        raise ValueError(f"line {line}: resources.backend: {resources.backend!r} is not one of {', '.join(BACKENDS)}")
    if resources.jobs_at_once == 0:
        raise ValueError(f"line {_line_of(given['resources'], 'jobs_at_once')}: resources.jobs_at_once: 0 runs nothing")
    slurm = _section(Slurm, given.get("slurm"))
    if slurm.minutes < LEAST_MINUTES:
        line = _line_of(given["slurm"], "minutes")
        raise ValueError(
            f"line {line}: slurm.minutes: {slurm.minutes} cannot work: jobs are signalled 90 s before their time "
            f"limit, and end; give {LEAST_MINUTES} or more"
        )
    return Plan(
        file=file,
        output=Path(_scalar(given["output"], "output", "str")).absolute(),
        models={entry.name: _scalar(entry, f"models.{entry.name}", "str") for entry in models},
        suites=tuple(_suite(entry, scripts) for entry in _named(given["suites"], "suites")),
        resources=resources,
        slurm=slurm,
        keep_exported="keep_exported" in given and _scalar(given["keep_exported"], "keep_exported", "bool"),
        trust_remote_code="trust_remote_code" in given
        and _scalar(given["trust_remote_code"], "trust_remote_code", "bool"),
        lines={entry.name: entry.line for entry in models},
    )


def _models(section: Entry) -> Iterator[Entry]:
    """Named models, or a list of paths that name themselves by their last part."""
    if not isinstance(section.node, yaml.SequenceNode):
        yield from _named(section, "models")
        return
    seen: dict[str, int] = {}
    for node in section.node.value:
        line = node.start_mark.line + 1
        path = Path(_scalar(Entry("", node, line), "models", "str"))
        name = path.parent.name if path.name == "final" else path.name
        if name in seen:
            raise ValueError(
                f"line {line}: models: two are called {name} (also in line {seen[name]}); write them as NAME: PATH"
            )
        seen[name] = line
        _check_name(name, line, "models")
        yield Entry(name, node, line)


def _named(section: Entry, field: str) -> Iterator[Entry]:
    if not isinstance(section.node, yaml.MappingNode) or not section.node.value:
        raise ValueError(f"line {section.line}: {field} must hold at least one NAME: ...")
    for entry in entries(section.node):
        _check_name(entry.name, entry.line, field)
        yield entry


def _check_name(name: str, line: int, field: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"line {line}: {field}: {shortened(name)!r} cannot name a folder of results; letters, digits and ._+=@- can"
        )


def _suite(entry: Entry, scripts: Path) -> Suite:
    name, node, line = entry
    options: list[str] = []
    driver, where = name, line
    if isinstance(node, yaml.MappingNode):
        for option in entries(node):
            field = f"suites.{name}.{option.name}"
            if option.name == "driver":
                driver, where = _scalar(option, field, "str"), option.line
            elif option.name in ("model", "output"):
                raise ValueError(f"line {option.line}: {field}: every job is given its own; remove it")
            else:
                options += _arguments(option, field)
    elif not _is(node, "null"):
        raise ValueError(f"line {line}: suites.{name} must hold options of its driver, as OPTION: VALUE")
    script = _script(driver, where, name, scripts)
    if not driver.endswith(".py"):
        _check_options(driver, options, name, node, line)
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


def _arguments(option: Entry, field: str) -> list[str]:
    """`--option=value`; a list's items follow the option; true is the option alone, false is nothing."""
    flag, node = f"--{option.name}", option.node
    if isinstance(node, yaml.SequenceNode) and node.value:
        return [flag, *(_text(item, option.line, field) for item in node.value)]
    if _is(node, "bool"):
        return [flag] if _constructed(node) else []
    return [f"{flag}={_text(node, option.line, field)}"]


def _text(node: yaml.Node, line: int, field: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or _is(node, "null"):
        raise ValueError(f"line {line}: {field}: text, a number, true, false or a list of texts or numbers is wanted")
    return _plain(str(node.value), line, field)


_Section = TypeVar("_Section", Resources, Slurm)


def _section(kind: type[_Section], section: Entry | None) -> _Section:
    """A flat section; every field is optional."""
    if section is None:
        return kind()
    types = {field.name: str(field.type).split(" ")[0] for field in fields(kind)}
    if not isinstance(section.node, yaml.MappingNode):
        raise ValueError(f"line {section.line}: {section.name} is a section and must hold fields ({', '.join(types)})")
    values: dict[str, Any] = {}
    for entry in _known_entries(section.node, tuple(types), f"{section.name}."):
        values[entry.name] = _scalar(entry, f"{section.name}.{entry.name}", types[entry.name])
    return kind(**values)


def _known_entries(mapping: yaml.MappingNode, known: Sequence[str], prefix: str) -> Iterator[Entry]:
    for entry in entries(mapping):
        if entry.name not in known:
            hint = did_you_mean(entry.name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"line {entry.line}: there is no field {prefix}{shortened(entry.name)}{hint}")
        yield entry


def _line_of(section: Entry, name: str) -> int:
    assert isinstance(section.node, yaml.MappingNode)
    return next(entry.line for entry in entries(section.node) if entry.name == name)


def _scalar(entry: Entry, field: str, kind: str) -> Any:
    node = entry.node
    # a name or path may look like a number
    if kind == "str" and isinstance(node, yaml.ScalarNode) and node.value and not _is(node, "null"):
        return _plain(at_home(str(node.value)), entry.line, field)
    value = _constructed(node) if isinstance(node, yaml.ScalarNode) and _is(node, kind) else None
    if value is None or (kind == "int" and value < 0):
        found = shortened(str(getattr(node, "value", ""))) if isinstance(node, yaml.ScalarNode) else "a section or list"
        raise ValueError(f"line {entry.line}: {field}: {_KINDS[kind]} is wanted, found {found or 'nothing'}")
    return value


def _plain(text: str, line: int, field: str) -> str:
    """Values become lines of Slurm's scripts and arguments of programs. Raises ValueError for control characters."""
    odd = next((character for character in text if unicodedata.category(character) == "Cc"), None)
    if odd is not None:
        raise ValueError(f"line {line}: {field}: holds the control character {odd!r}; remove it")
    return text


def _is(node: yaml.Node, kind: str) -> bool:
    return bool(node.tag == _TAG + kind)


def _constructed(node: yaml.Node) -> Any:
    return yaml.constructor.SafeConstructor().construct_document(node)

"""What people write: texts, JSON and YAML, where a key that stands twice is an error, and values of a command line."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sparsepo_dist.errors import UserError, shortened

_MERGE = "tag:yaml.org,2002:merge"


def read_text(file: Path, name: str, remedy: str = "") -> str:
    """The text of a file that a person wrote: UTF-8, with a byte order mark or without.

    Args:
        file: where it is.
        name: what messages call it.
        remedy: what the message ends with where it cannot be read.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}{remedy}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 (byte {error.start}); convert the file to UTF-8") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, is nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: as `parse_json`, or it is not UTF-8.
    """
    return parse_json(file.read_text(encoding="utf-8"))


class Entry(NamedTuple):
    """A key of a YAML mapping and where it stands."""

    name: str
    node: yaml.Node
    line: int


def parse_yaml(text: str) -> yaml.Node | None:
    """The root node of a YAML text, None where it is empty.

    Raises:
        ValueError: it is not YAML.
    """
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ValueError(f"{where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(shortened(str(error), 200)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def entries(mapping: yaml.MappingNode) -> Iterator[Entry]:
    """The entries of a YAML mapping.

    Raises:
        ValueError: a key is no plain name, is YAML's merge key, or stands twice.
    """
    seen: dict[str, int] = {}
    for key, node in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {line}: a name was expected before the colon")
        if key.tag == _MERGE:
            raise ValueError(f"line {line}: `<<`, YAML's merge key, is not followed; write its fields out")
        if key.value in seen:
            raise ValueError(f"line {line}: {shortened(key.value)} stands there twice (also in line {seen[key.value]})")
        seen[key.value] = line
        yield Entry(key.value, node, line)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested mappings; an empty mapping is a value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shortened(twice)!r} stands twice in one object")
    return found


def at_home(text: str) -> str:
    """A path whose leading `~` or `~user`, which shells leave alone within an option and in files, is that folder."""
    return os.path.expanduser(text)  # noqa: PTH111  (pathlib would also rewrite what is no path, such as hub ids)


def argument(text: str) -> str:
    """A value of a command line, for argparse; `~` is expanded. Raises ArgumentTypeError where it is empty: that names
    nothing."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give it a value, or leave it out")
    return at_home(text)


def path_argument(text: str) -> Path:
    """As `argument`, of a path: an empty one would be the current folder."""
    return Path(argument(text))

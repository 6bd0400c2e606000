"""Fields of YAML files that people write: known names, values of a kind, or one message with the line (ValueError)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from sparsepo_dist.errors import did_you_mean, shortened
from sparsepo_dist.files import Entry, at_home, entries, parse_yaml, read_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@-]*")
_TAG = "tag:yaml.org,2002:"
_KINDS = {"int": "a whole number, 0 or more", "float": "a number", "bool": "true or false", "str": "text"}
Section = TypeVar("Section", bound="DataclassInstance")


def read_fields(file: Path, known: Sequence[str], needed: Sequence[str], form: str) -> dict[str, Entry]:
    """The fields at the top of a file, by name.

    Args:
        known: names of all that there are.
        needed: those that it cannot be without.
        form: what a file that is no mapping is told.

    Raises:
        ValueError: it is no mapping, has another field, or lacks one.
        OSError: it cannot be read.
    """
    root = parse_yaml(read_text(file, str(file)))
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(form)
    given = {entry.name: entry for entry in known_entries(root, known, "")}
    for name in needed:
        if name not in given:
            raise ValueError(f"{name} is missing")
    return given


def flat_section(kind: type[Section], section: Entry | None) -> Section:
    """A section as a dataclass of texts, numbers, true and false, all of which have defaults. Raises ValueError."""
    if section is None:
        return kind()
    types = {field.name: str(field.type).split(" ")[0] for field in fields(kind)}
    if not isinstance(section.node, yaml.MappingNode):
        raise ValueError(f"line {section.line}: {section.name} is a section and must hold fields ({', '.join(types)})")
    values: dict[str, Any] = {}
    for entry in known_entries(section.node, tuple(types), f"{section.name}."):
        values[entry.name] = scalar(entry, f"{section.name}.{entry.name}", types[entry.name])
    return kind(**values)


def known_entries(mapping: yaml.MappingNode, known: Sequence[str], prefix: str) -> Iterator[Entry]:
    for entry in entries(mapping):
        if entry.name not in known:
            hint = did_you_mean(entry.name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"line {entry.line}: there is no field {prefix}{shortened(entry.name)}{hint}")
        yield entry


def line_of(section: Entry, name: str) -> int:
    assert isinstance(section.node, yaml.MappingNode)
    return next(entry.line for entry in entries(section.node) if entry.name == name)


def scalar(entry: Entry, field: str, kind: str) -> Any:
    node = entry.node
    # a name or path may look like a number
    if kind == "str" and isinstance(node, yaml.ScalarNode) and node.value and not is_tagged(node, "null"):
        return plain(at_home(str(node.value)), entry.line, field)
    value = _constructed(node) if isinstance(node, yaml.ScalarNode) and is_tagged(node, kind) else None
    if value is None or (kind == "int" and value < 0):
        found = shortened(str(getattr(node, "value", ""))) if isinstance(node, yaml.ScalarNode) else "a section or list"
        raise ValueError(f"line {entry.line}: {field}: {_KINDS[kind]} is wanted, found {found or 'nothing'}")
    return value


def plain(text: str, line: int, field: str) -> str:
    """Values become lines of Slurm's scripts and arguments of programs. Raises ValueError for control characters."""
    odd = next((character for character in text if unicodedata.category(character) == "Cc"), None)
    if odd is not None:
        raise ValueError(f"line {line}: {field}: holds the control character {odd!r}; remove it")
    return text


def is_tagged(node: yaml.Node, kind: str) -> bool:
    return bool(node.tag == _TAG + kind)


def _constructed(node: yaml.Node) -> Any:
    return yaml.constructor.SafeConstructor().construct_document(node)


def named(section: Entry, field: str) -> Iterator[Entry]:
    if not isinstance(section.node, yaml.MappingNode) or not section.node.value:
        raise ValueError(f"line {section.line}: {field} must hold at least one NAME: ...")
    for entry in entries(section.node):
        check_name(entry.name, entry.line, field)
        yield entry


def check_name(name: str, line: int, field: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"line {line}: {field}: {shortened(name)!r} cannot name a folder of results; letters, digits and ._+=@- can"
        )


def arguments(option: Entry, field: str) -> list[str]:
    """`--option=value`; a list's items follow the option; true is the option alone, false is nothing."""
    flag, node = f"--{option.name}", option.node
    if isinstance(node, yaml.SequenceNode) and node.value:
        return [flag, *(_text(item, option.line, field) for item in node.value)]
    if is_tagged(node, "bool"):
        return [flag] if _constructed(node) else []
    return [f"{flag}={_text(node, option.line, field)}"]


def _text(node: yaml.Node, line: int, field: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or is_tagged(node, "null"):
        raise ValueError(f"line {line}: {field}: text, a number, true, false or a list of texts or numbers is wanted")
    return plain(str(node.value), line, field)

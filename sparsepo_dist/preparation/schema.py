"""Rows of a public set, checked against the schema that it has: one clear error for rows of another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sparsepo_dist.data.reading.sources import Row, RowError, read_rows
from sparsepo_dist.errors import UserError, shortened


class Kind(NamedTuple):
    """What a field holds."""

    said: str
    holds: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_whole_text(value: Any) -> bool:
    """Whether all text in a value can be written."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(name), str) for name in ("role", "content"))


TEXT = Kind("text that is not blank", _is_text)
WHOLE = Kind("a whole number", _is_whole)
NUMBER = Kind("a number", lambda value: _is_whole(value) or (isinstance(value, float) and value == value))
LIST = Kind("a list", lambda value: isinstance(value, list))
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value))
OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))
MESSAGES = Kind(
    "a list of messages, each with role and content",
    lambda value: isinstance(value, list) and bool(value) and all(map(_is_message, value)),
)


class SchemaRow(NamedTuple):
    """A row of the schema."""

    place: str
    """File and row, for messages."""
    values: dict[str, Any]
    """By the schema's names; None for an optional field that is not there or null."""


@dataclass(frozen=True)
class Schema:
    """The fields of a set's rows that a preparation reads."""

    said: str
    """What has such rows, as `openai/summarize_from_feedback:comparisons`."""
    fields: Mapping[str, Kind]
    """Dots lead into objects: `info.post`."""
    optional: Mapping[str, Kind] = field(default_factory=dict)

    def rows(self, source: str, *, option: str) -> Iterator[SchemaRow]:
        """All rows of a source, as `data.train` takes them.

        Args:
            option: where the source was given, for messages.

        Raises:
            UserError: the source cannot be read, or a row is not of this schema: names file, row, field, and what was
                expected and found.
        """
        try:
            for row in read_rows(source):
                if isinstance(row, RowError):
                    raise row
                yield self._checked(row)
        except (RowError, UserError) as bad:
            raise UserError(f"{option} {bad}") from None

    def _checked(self, row: Row) -> SchemaRow:
        if not isinstance(row.fields, Mapping):
            raise RowError(row.place, f"an object was expected, found {type(row.fields).__name__}; {self._expected()}")
        values = {name: self._value(row, name, kind) for name, kind in self.fields.items()}
        values |= {name: self._value(row, name, kind, optional=True) for name, kind in self.optional.items()}
        return SchemaRow(row.place, values)

    def _value(self, row: Row, name: str, kind: Kind, *, optional: bool = False) -> Any:
        value: Any = row.fields
        for key in name.split("."):
            if optional and (value is None or (isinstance(value, Mapping) and value.get(key) is None)):
                return None
            if not isinstance(value, Mapping) or key not in value:
                there = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
                raise RowError(
                    row.place, f"field {name!r} is missing (there is {shortened(there)}); {self._expected()}"
                )
            value = value[key]
        if not _is_whole_text(value):
            raise RowError(row.place, f"field {name!r} holds half a character (a surrogate), which no file can have")
        if not kind.holds(value):
            found = "null" if value is None else f"{type(value).__name__} {shortened(repr(value), 40)}"
            raise RowError(row.place, f"field {name!r} must be {kind.said}, found {found}; {self._expected()}")
        return value

    def _expected(self) -> str:
        return f"expected rows of {self.said}, with {', '.join(self.fields)}"

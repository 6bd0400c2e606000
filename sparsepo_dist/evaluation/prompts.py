"""Prompts from a file: every row is looked at, and a bad one is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from sparsepo_dist.data.reading.sources import Row, RowError, read_rows
from sparsepo_dist.errors import UserError, did_you_mean, shortened


def read_texts(
    source: str, fields: Sequence[str], count: int | None, *, option: str = "--prompts"
) -> list[tuple[str, ...]]:
    """The named text fields of rows of a source, as `data.train` takes them.

    Args:
        count: the first ones; None: all.
        option: where the source was given, for messages.

    Raises:
        UserError: the source cannot be read, has fewer rows, or a row lacks a field (file and row are named).
    """
    found: list[tuple[str, ...]] = []
    for row in read_rows(source):
        if len(found) == count:
            break
        try:
            if isinstance(row, RowError):
                raise row
            found.append(tuple(_text(row, name) for name in fields))
        except RowError as bad:
            raise UserError(f"{option} {bad}") from None
    if not found or len(found) < (count or 0):
        wanted = f"fewer than the {count} asked for (--prompt_count)" if count else "and one is needed at least"
        raise UserError(f"{option} {source}: {len(found)} rows, {wanted}")
    return found


def digest(texts: Sequence[str]) -> str:
    """Names a list of texts, so that results of another are never taken for these."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def _text(row: Row, name: str) -> str:
    if not isinstance(row.fields, Mapping):
        raise RowError(row.place, f"expected an object with {name}, found {type(row.fields).__name__}")
    if name not in row.fields:
        names = list(map(str, row.fields))
        there = shortened(", ".join(names)) or "no fields"
        raise RowError(row.place, f"field {name!r} is missing; the row has {there}{did_you_mean(name, names)}")
    value = row.fields[name]
    if value is None:
        raise RowError(row.place, f"{name} is null")
    if not isinstance(value, str):
        raise RowError(row.place, f"{name} must be text, found {type(value).__name__}")
    if not value.strip():
        raise RowError(row.place, f"{name} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(row.place, f"{name} holds half a character at {error.start}, which is no text") from None
    return value

"""What reading yields: rows, and rows that cannot be used, each with the place where a person finds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from sparsepo_dist.errors import UserError, shortened

MOST_BYTES = 2**26
"""Of a line, or of a cell: what is longer is no row, and would not be read for minutes."""


class Row(NamedTuple):
    """A raw row; `place` says where a person finds it."""

    place: str
    fields: Any


class RowError(Exception):
    """A row that cannot be used; the message is `place: reason`."""

    def __init__(self, place: str, reason: str) -> None:
        self.place, self.reason = place, shortened(reason, 400)
        super().__init__(f"{place}: {self.reason}")

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        """Between processes."""
        return RowError, (self.place, self.reason)


Rows = Iterator[Row | RowError]


class NumberText(str):
    """Text of a table that has no types, and that a number can be read from."""

    __slots__ = ()


def numbered(source: str, rows: Iterable[Any]) -> Rows:
    """Rows whose place is their number, from 1.

    Raises:
        UserError: what reads them fails on the way.
    """
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            yield Row(f"{source}, row {number}", row)
    except Exception as error:  # whatever the formats raise
        raise UserError(f"{source}: damaged after row {number}: {shortened(str(error), 200)}") from None

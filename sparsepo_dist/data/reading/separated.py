"""Rows of .csv and .tsv files: a header, then cells in quotes or without (RFC 4180)."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sparsepo_dist.data.reading.lines import bounded_lines, unpacked
from sparsepo_dist.data.reading.row import MOST_BYTES, NumberText, Row, RowError, Rows
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import parse_json

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_SEPARATORS = ";\t|,"
_MESSAGES = re.compile(r"\s*\[\s*\{")
_PYTHON = re.compile(r"""\s*\[\s*\{\s*'""")


def read_separated(path: Path, delimiter: str) -> Rows:
    """Rows of a table whose first line names its columns.

    An empty cell is null. A cell that is a JSON list of objects with a `role` is a list of messages, one that is a
    number becomes NumberText, everything else stays the text that it is.

    Raises:
        UserError: a header with empty names, or with one twice; a quote that is never closed.
    """
    csv.field_size_limit(MOST_BYTES)
    with unpacked(path) as file:
        fed = _Lines(file)
        reader = csv.reader(fed, delimiter=delimiter, strict=True)
        header = _header(path, reader, delimiter)
        while True:
            place = f"{path}, line {reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if fed.ended:
                    raise UserError(f"{place}: a quote that is opened in this row is closed nowhere") from None
                yield RowError(place, f"not CSV: {error}; text that holds quotes is quoted, and its quotes are doubled")
                continue
            if cells is None:
                return
            if cells:
                yield _row(place, header, cells, too_long=fed.take_too_long())


class _Lines(Iterator[str]):
    """Lines of a file as `csv` reads them; what is not UTF-8 becomes lone surrogates, which are found row by row."""

    def __init__(self, file: IO[bytes]) -> None:
        self._lines = bounded_lines(file)
        self._first, self._too_long = True, False
        self.ended = False

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self._too_long |= len(line) > MOST_BYTES
        if self._first:
            self._first, line = False, line.removeprefix(codecs.BOM_UTF8)
        return line.decode("utf-8", "surrogateescape")

    def take_too_long(self) -> bool:
        """Whether a line since the last call was cut."""
        found, self._too_long = self._too_long, False
        return found


def _header(path: Path, reader: Iterator[list[str]], delimiter: str) -> list[str]:
    try:
        header = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise UserError(f"{path}: the header is not CSV: {error}") from None
    if any(map(_undecoded, header)):
        raise UserError(f"{path}: not UTF-8 (the header); convert the file to UTF-8")
    if len(header) == 1 and (other := next((one for one in _SEPARATORS if one in header[0]), None)) is not None:
        raise UserError(
            f"{path}: the header is one cell, {shortened(repr(header[0]))}: its separator seems to be {other!r}, and "
            f"is read as {delimiter!r} by the file's suffix; write .csv with ',' or .tsv with tabs"
        )
    for number, name in enumerate(header, start=1):
        if not name.strip():
            raise UserError(f"{path}: column {number} has no name in the header (line 1); give it one")
        if name in header[: number - 1]:
            raise UserError(f"{path}: the column {shortened(name)!r} stands twice; rename one of them, or drop it")
    return header


def _row(place: str, header: list[str], cells: list[str], *, too_long: bool) -> Row | RowError:
    if too_long:
        return RowError(place, f"longer than {MOST_BYTES // 2**20} MiB; is a line break missing?")
    if len(cells) != len(header):
        return RowError(
            place,
            f"{len(cells)} cells, and the header has {len(header)}; text that holds separators or line breaks must be "
            "in quotes",
        )
    for name, cell in zip(header, cells, strict=True):
        if _undecoded(cell):
            return RowError(place, f"{shortened(name)} is not UTF-8; convert the file to UTF-8")
    try:
        return Row(place, {name: _value(name, cell) for name, cell in zip(header, cells, strict=True)})
    except ValueError as error:
        return RowError(place, str(error))


def _undecoded(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)


def _value(name: str, cell: str) -> Any:
    if not cell:
        return None
    if _NUMBER.fullmatch(cell):
        return NumberText(cell)
    return _messages(name, cell) if _MESSAGES.match(cell) else cell


def _messages(name: str, cell: str) -> Any:
    """A cell's messages, or its text where it holds none. Raises ValueError for what Python prints of messages."""
    try:
        value = parse_json(cell)
    except ValueError:
        if _PYTHON.match(cell) and "'role'" in cell:
            raise ValueError(
                f"{shortened(name)} holds messages as Python prints them, which are no JSON; write the column with "
                "json.dumps"
            ) from None
        return cell
    messages = all(isinstance(item, dict) and "role" in item for item in value)
    return value if messages else cell

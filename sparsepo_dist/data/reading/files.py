"""Rows of one file, by its suffix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sparsepo_dist.data.reading.arrow import read_arrow, read_parquet
from sparsepo_dist.data.reading.lines import bounded_lines, unpacked
from sparsepo_dist.data.reading.row import MOST_BYTES, Row, RowError, Rows, numbered
from sparsepo_dist.data.reading.separated import read_separated
from sparsepo_dist.errors import UserError
from sparsepo_dist.files import parse_json

MOST_JSON_BYTES = 2**31
"""Of a .json file, unpacked: it is read as a whole."""
KINDS = ".jsonl, .json, .csv or .tsv (also packed: .gz, .zst behind it), .parquet or .arrow"
_POINTER, _LONGEST_POINTER = b"version https://git-lfs.github.com/spec/", 1024
_PACKED = ("", ".gz", ".zst")


def kind_of(name: str) -> str | None:
    """The suffix, in small letters, of a file that is read; None of others."""
    name = name.lower()
    return next((kind for kind in _READERS if name.endswith(kind)), None)


def read_file(path: Path) -> Rows:
    """Rows of a file of a known kind; a bad line comes back as RowError.

    Raises:
        UserError: it is damaged, or holds no rows at all in its form.
    """
    kind = kind_of(path.name)
    assert kind is not None
    refuse_pointer(path)
    return _READERS[kind](path)


def refuse_pointer(path: Path) -> None:
    """Raise UserError for what git leaves in the place of a large file, where git-lfs is not installed."""
    if path.stat().st_size > _LONGEST_POINTER:
        return
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{path}: git has left a pointer here, not the file; run `git lfs pull` in its folder")


def _read_json_lines(path: Path) -> Rows:
    with unpacked(path) as file:
        for number, line in enumerate(bounded_lines(file), start=1):
            if not line.strip():
                continue
            place = f"{path}, row {number}"
            if len(line) > MOST_BYTES:
                yield RowError(place, f"the line is longer than {MOST_BYTES // 2**20} MiB; is a line break missing?")
                continue
            try:
                yield Row(place, parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8")))
            except UnicodeDecodeError as error:
                yield RowError(place, f"not UTF-8 (byte {error.start} of the line); convert the file to UTF-8")
            except ValueError as error:
                yield RowError(place, f"not a JSON object: {error}")


def _read_json(path: Path) -> Rows:
    with unpacked(path) as file:
        content = file.read(MOST_JSON_BYTES + 1)
    if len(content) > MOST_JSON_BYTES:
        raise UserError(f"{path}: more than {MOST_JSON_BYTES // 2**30} GiB; write it as .jsonl, which is read by lines")
    if not content.strip():
        return iter(())
    try:
        rows = parse_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); convert the file to UTF-8") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}. A file of one object per line must be named .jsonl") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of rows, found a {type(rows).__name__}")
    return numbered(str(path), rows)


_TEXTS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_json_lines, ".json": _read_json,
    ".csv": partial(read_separated, delimiter=","), ".tsv": partial(read_separated, delimiter="\t"),
}  # fmt: skip
_READERS: dict[str, Callable[[Path], Rows]] = {
    **{f"{kind}{packed}": read for kind, read in _TEXTS.items() for packed in _PACKED},
    ".parquet": read_parquet, ".arrow": read_arrow,
}  # fmt: skip

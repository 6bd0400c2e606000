"""Rows from files, folders and hubs, each with the place it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.errors import UserError


class Row(NamedTuple):
    """A raw row; `place` says where a person finds it."""

    place: str
    fields: Any


class RowError(Exception):
    """A row that cannot be used; the message is `place: reason`."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")


def read_rows(source: str) -> Iterator[Row | RowError]:
    """Rows of a .jsonl, .json or .parquet file, a datasets folder, or a hub id (`name` or `name:split`).

    Lines that are not JSON come back as RowError, so that the caller decides whether they stop the run.

    Raises:
        UserError: the source does not exist, is empty, or is of no known kind.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        rows = _read_folder(path)
    elif path.suffix in (".jsonl", ".json", ".parquet"):
        if not path.is_file():
            raise UserError(f"{source}: no such file (looked in {Path.cwd()})")
        rows = {".jsonl": _read_json_lines, ".json": _read_json, ".parquet": _read_parquet}[path.suffix](path)
    elif path.is_file():
        raise UserError(f"{source}: expected a .jsonl, .json or .parquet file, a datasets folder or a hub id")
    else:
        rows = _read_hub(source)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise UserError(f"{source}: holds no rows")


def _read_json_lines(path: Path) -> Iterator[Row | RowError]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{path}, row {number}"
            try:
                yield Row(place, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")))
            except UnicodeDecodeError as error:
                yield RowError(place, f"not UTF-8 (byte {error.start} of the line); convert the file to UTF-8")
            except (ValueError, RecursionError) as error:
                yield RowError(place, f"not a JSON object: {error}")


def _read_json(path: Path) -> Iterator[Row | RowError]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}. A file of one object per line must be named .jsonl") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of rows, found a {type(rows).__name__}")
    return (Row(f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))


def _read_parquet(path: Path) -> Iterator[Row | RowError]:
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a Parquet file: {error}") from None
    number = 0
    for batch in file.iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield Row(f"{path}, row {number}", row)


def _read_folder(path: Path) -> Iterator[Row | RowError]:
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: a folder, but none that datasets.save_to_disk wrote; name a file in it") from None
    if isinstance(data, Mapping):
        if "train" not in data:
            raise UserError(f"{path}: holds the splits {', '.join(data)}; name the folder of one, {path}/SPLIT")
        data = data["train"]
    return (Row(f"{path}, row {number}", row) for number, row in enumerate(data, start=1))


def _read_hub(source: str) -> Iterator[Row | RowError]:
    import datasets

    name, _, split = source.partition(":")
    try:
        data = datasets.load_dataset(name, split=split or "train")
    except Exception as error:
        raise UserError(
            f"{source}: neither a file or folder here (looked in {Path.cwd()}), nor could it be loaded from a hub: "
            f"{type(error).__name__}: {error}"
        ) from None
    return (Row(f"{source}, row {number}", row) for number, row in enumerate(data, start=1))

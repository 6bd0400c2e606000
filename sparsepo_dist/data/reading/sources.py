"""Rows from files, folders and hubs, each with the place it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import parse_json, read_text

MOST_BYTES = 2**26
"""Of a line: what is longer is no row, and would not be read for minutes."""


class Row(NamedTuple):
    """A raw row; `place` says where a person finds it."""

    place: str
    fields: Any


class RowError(Exception):
    """A row that cannot be used; the message is `place: reason`."""

    def __init__(self, place: str, reason: str) -> None:
        self.reason = shortened(reason, 400)
        super().__init__(f"{place}: {self.reason}")


def read_rows(source: str) -> Iterator[Row | RowError]:
    """Rows of a .jsonl, .json or .parquet file, a datasets folder, or a hub id (`name` or `name:split`).

    Lines that are not JSON come back as RowError, so that the caller decides whether they stop the run.

    Raises:
        UserError: the source does not exist, is empty, damaged, or of no known kind.
    """
    empty = True
    try:
        for row in _read(source):
            empty = False
            yield row
    except OSError as error:
        raise UserError(f"{shortened(source, 200)}: cannot be read: {error.strerror or error}") from None
    if empty:
        raise UserError(f"{source}: holds no rows")


def _read(source: str) -> Iterator[Row | RowError]:
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.suffix in (".jsonl", ".json", ".parquet"):
        if not path.is_file():
            raise UserError(f"{source}: no such file (looked in {Path.cwd()})")
        return {".jsonl": _read_json_lines, ".json": _read_json, ".parquet": _read_parquet}[path.suffix](path)
    if path.is_file():
        raise UserError(f"{source}: expected a .jsonl, .json or .parquet file, a datasets folder or a hub id")
    return _read_hub(source)


def _read_json_lines(path: Path) -> Iterator[Row | RowError]:
    with path.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MOST_BYTES + 1), b""), start=1):
            if not line.strip():
                continue
            place = f"{path}, row {number}"
            if len(line) > MOST_BYTES:
                _skip_line(lines)
                yield RowError(place, f"the line is longer than {MOST_BYTES // 2**20} MiB; is a line break missing?")
                continue
            try:
                yield Row(place, parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8")))
            except UnicodeDecodeError as error:
                yield RowError(place, f"not UTF-8 (byte {error.start} of the line); convert the file to UTF-8")
            except ValueError as error:
                yield RowError(place, f"not a JSON object: {error}")


def _skip_line(lines: IO[bytes]) -> None:
    while (rest := lines.readline(MOST_BYTES)) and not rest.endswith(b"\n"):
        pass


def _read_json(path: Path) -> Iterator[Row | RowError]:
    try:
        rows = parse_json(read_text(path, str(path)))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}. A file of one object per line must be named .jsonl") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of rows, found a {type(rows).__name__}")
    return _numbered(str(path), rows)


def _read_parquet(path: Path) -> Iterator[Row | RowError]:
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {shortened(str(error), 200)}") from None
    _refuse_twins(path, file.schema_arrow)
    return _numbered(str(path), (_of_table(row) for batch in file.iter_batches() for row in batch.to_pylist()))


def _refuse_twins(path: Path, fields: Iterable[Any], within: str = "") -> None:
    """Refuse Arrow fields of one name, which would become one key; `fields` are a schema's or a type's."""
    import pyarrow

    names: set[str] = set()
    for field in fields:
        name = f"{within}{shortened(field.name)}"
        if name in names:
            raise UserError(f"{path}: the column {name!r} stands twice; rename one of them, or drop it")
        names.add(name)
        kind = field.type
        while isinstance(kind, pyarrow.ListType | pyarrow.LargeListType | pyarrow.FixedSizeListType):
            kind = kind.value_type
        if isinstance(kind, pyarrow.StructType):
            _refuse_twins(path, kind, f"{name}.")


def _of_table(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an Arrow table: within a value, null stands for a key that other rows' objects have and this has not."""
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _read_folder(path: Path) -> Iterator[Row | RowError]:
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: a folder, but none that datasets.save_to_disk wrote; name a file in it") from None
    except Exception as error:  # whatever the formats below raise
        raise UserError(f"{path}: a damaged datasets folder: {shortened(str(error), 200)}") from None
    if isinstance(data, Mapping):
        if "train" not in data:
            raise UserError(f"{path}: holds the splits {', '.join(data)}; name the folder of one, {path}/SPLIT")
        data = data["train"]
    return _numbered(str(path), map(_of_table, data))


def _read_hub(source: str) -> Iterator[Row | RowError]:
    import datasets

    name, _, split = source.partition(":")
    try:
        data = datasets.load_dataset(name, split=split or "train")
    except Exception as error:
        raise UserError(
            f"{source}: neither a file or folder here (looked in {Path.cwd()}), nor could it be loaded from a hub: "
            f"{type(error).__name__}: {shortened(str(error), 200)}"
        ) from None
    return _numbered(source, map(_of_table, data))


def _numbered(source: str, rows: Iterable[Any]) -> Iterator[Row | RowError]:
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            yield Row(f"{source}, row {number}", row)
    except Exception as error:  # whatever the formats below raise
        raise UserError(f"{source}: damaged after row {number}: {shortened(str(error), 200)}") from None

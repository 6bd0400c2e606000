"""Rows of Arrow's own formats: .parquet, and .arrow as files or as streams, which `datasets` writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsepo_dist.data.reading.row import Rows, numbered
from sparsepo_dist.errors import UserError, shortened

_ROWS_AT_ONCE = 1000


def read_parquet(path: Path) -> Rows:
    """Rows of a Parquet file.

    Raises:
        UserError: it is damaged, or two columns have one name.
    """
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {shortened(str(error), 200)}") from None
    _refuse_twins(path, file.schema_arrow)
    return numbered(str(path), _rows(file.iter_batches(_ROWS_AT_ONCE)))


def read_arrow(path: Path) -> Rows:
    """Rows of an Arrow file, or of an Arrow stream.

    Raises:
        UserError: it is damaged, or two columns have one name.
    """
    import pyarrow.ipc

    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    try:
        reader = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(pyarrow.OSFile(str(path)))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not an Arrow file: {shortened(str(error), 200)}") from None
    _refuse_twins(path, reader.schema)
    batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
    return numbered(str(path), _rows(batches))


def _rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Rows of record batches, which may be large, as Python objects of few of them at a time."""
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            yield from map(of_table, batch.slice(start, _ROWS_AT_ONCE).to_pylist())


def of_table(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an Arrow table: within a value, null stands for a key that other rows' objects have and this has not."""
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


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

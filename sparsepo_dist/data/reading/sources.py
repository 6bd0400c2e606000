"""Rows of a source, whatever it is: a file, a glob, a folder, or a data set of a hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sparsepo_dist.data.reading.clones import read_folder
from sparsepo_dist.data.reading.files import KINDS, kind_of, read_file
from sparsepo_dist.data.reading.folders import (
    is_pattern,
    is_prepared,
    matching,
    prepared_file,
    read_matching,
    refuse_unprepared,
)
from sparsepo_dist.data.reading.hub import is_id, read_dataset
from sparsepo_dist.data.reading.named import Named, cut_rows, readings
from sparsepo_dist.data.reading.row import Row, RowError, Rows
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import at_home

__all__ = ["Row", "RowError", "read_rows"]


def read_rows(source: str) -> Rows:
    """Rows of a file, a glob, a folder or a hub id, with a configuration, a split and a slice where they are named.

    What is a path here is taken as one, whatever else its characters could mean. Lines that cannot be read as rows come
    back as RowError, so that the caller decides whether they stop the run.

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


def _read(source: str) -> Rows:
    possible = readings(source)
    for named in possible:
        if not named.path:
            continue
        path = Path(at_home(named.path))
        if path.is_dir() and is_prepared(path):
            return cut_rows(partial(read_file, prepared_file(source, path, named.parts)), named.cut, source)
        if path.is_dir():
            return read_folder(source, named)
        if path.is_file():
            return _read_file(source, path, named)
        if not named.parts and is_pattern(named.path) and (found := matching(named.path)):
            return cut_rows(partial(read_matching, named.path, found), named.cut, source)
    named = possible[-1]
    refuse_unprepared(source, named.path)
    if kind_of(named.path) is None and is_id(named.path) and "://" not in source:
        return read_dataset(source, named)
    here = f"(looked in {Path.cwd()})"
    if is_pattern(named.path):
        raise UserError(f"{source}: no file matches {here}")
    raise UserError(f"{source}: no such file or folder {here}")


def _read_file(source: str, path: Path, named: Named) -> Rows:
    if named.parts:
        raise UserError(f"{source}: {path} is a file, and has no configuration or split {':'.join(named.parts)}")
    if kind_of(path.name) is None:
        raise UserError(f"{source}: expected a file of a kind that is read ({KINDS}), a folder or a hub id")
    return cut_rows(partial(read_file, path), named.cut, source)

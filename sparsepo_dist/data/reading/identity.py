"""What tells a source's content of now from that of another time, without reading it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparsepo_dist.data.reading.folders import files_within, is_pattern, matching
from sparsepo_dist.data.reading.hub import prepared_files
from sparsepo_dist.data.reading.named import readings
from sparsepo_dist.data.reading.sources import read_rows
from sparsepo_dist.disk import add_samples
from sparsepo_dist.errors import UserError
from sparsepo_dist.files import at_home


def source_identity(source: str) -> list[Any]:
    """The source as it is named, and size, times and samples of each file that it is read from.

    A file that was changed, or replaced by another, has another time of its last change (ctime), whatever its time of
    modification was set to; samples tell small files that were written twice within one tick of the clock.

    Raises:
        UserError: the source is not there, or cannot be looked at.
    """
    try:
        return [source, *map(_stamp, source_files(source))]
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror or error}") from None


def source_files(source: str) -> Iterable[Path]:
    """The files that a source is read from.

    Raises:
        UserError: the source is not there, or cannot be looked at.
        OSError: a folder or file cannot be read.
    """
    possible = readings(source)
    for named in possible:
        path = Path(at_home(named.path))
        if not named.path:
            continue
        if path.is_dir():
            return files_within(path)
        if path.is_file():
            return [path]
        if not named.parts and is_pattern(named.path) and (found := matching(named.path)):
            return [path for path in found if path.is_file()]
    next(read_rows(source), None)  # says what is wrong with it, if it is no hub's
    return prepared_files(source, possible[-1])


def _stamp(file: Path) -> list[Any]:
    found = file.stat()
    digest = hashlib.sha256()
    add_samples(digest, file)
    return [str(file), found.st_size, found.st_mtime_ns, found.st_ctime_ns, digest.hexdigest()]

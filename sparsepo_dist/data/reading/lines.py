"""Lines of files as they lie there or packed (gzip, Zstandard), unpacked as they are read."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from sparsepo_dist.data.reading.row import MOST_BYTES
from sparsepo_dist.errors import UserError, shortened


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, by its suffix those that `.gz` or `.zst` unpack to.

    Raises:
        UserError: it is damaged, here or while it is read.
        OSError: it cannot be read.
    """
    try:
        with _open(path) as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: a damaged .gz file: {shortened(str(error), 200)}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(f"{path}: a damaged .zst file: {shortened(str(error), 200)}") from None


def _open(path: Path) -> IO[bytes]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path))
    if suffix == ".zst":
        import pyarrow  # its Zstandard spares a dependency

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))
    return path.open("rb")


def bounded_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines with their ends; of one of more than `MOST_BYTES` the first `MOST_BYTES` + 1."""
    while line := file.readline(MOST_BYTES + 1):
        yield line
        while len(line) > MOST_BYTES and not line.endswith(b"\n"):
            line = file.readline(MOST_BYTES) or b"\n"

"""What a preparation reads, as its card names it."""

from __future__ import annotations

from typing import Any

from sparsepo_dist.data.reading.identity import source_files
from sparsepo_dist.disk import sha256
from sparsepo_dist.errors import UserError


def source_record(source: str) -> dict[str, Any]:
    """A source of rows as it is named, and name, size and SHA-256 of each file that it is read from.

    Raises:
        UserError: the source is not there, or cannot be read.
    """
    try:
        files = [
            {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)} for file in source_files(source)
        ]
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror or error}") from None
    return {"source": source, "files": files}

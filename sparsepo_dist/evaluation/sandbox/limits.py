"""What a program may use. Standard library only: the child imports it."""

from __future__ import annotations

from typing import NamedTuple

MEGABYTE = 1 << 20


class Limits(NamedTuple):
    """Limits of one program with its tests."""

    cpu_seconds: int = 3
    """Processor time of all its threads; HumanEval's own limit is 3 s of wall time."""
    wall_seconds: float = 15.0
    """For those that sleep. Far above `cpu_seconds`, so that a busy machine changes no verdict."""
    memory_bytes: int = 1024 * MEGABYTE
    """Of address space."""
    file_bytes: int = 16 * MEGABYTE
    """Of one file."""
    folder_bytes: int = 64 * MEGABYTE
    """Of all files in the working folder; looked at ten times a second."""
    folder_files: int = 100
    open_files: int = 64

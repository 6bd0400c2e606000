"""What a program may use. Standard library only: the child imports it."""

from __future__ import annotations

from typing import NamedTuple

MEGABYTE = 1 << 20


class Limits(NamedTuple):
    """Limits of one program; its tests, in a process of their own, have the same once more."""

    cpu_seconds: int = 3
    """Processor time of all its threads; HumanEval's own limit is 3 s of wall time."""
    wall_seconds: float = 15.0
    """For those that sleep. Far above `cpu_seconds`, so that a busy machine changes no verdict."""
    memory_bytes: int = 1024 * MEGABYTE
    """Of address space."""
    file_bytes: int = MEGABYTE
    """Of one file."""
    made_files: int = 64
    """How often it may make a file, or open one as if to make it, whatever becomes of them: with `file_bytes` the bound
    of all that it ever writes."""
    open_files: int = 64

    def said(self) -> str:
        """For whoever has to allow it."""
        return (
            "in a sandbox without network, child processes or writes outside an empty folder, with "
            f"{self.cpu_seconds} s of CPU and {self.memory_bytes // MEGABYTE} MB each"
        )

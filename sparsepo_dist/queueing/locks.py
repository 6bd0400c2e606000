"""Locks that the kernel frees when the last process goes that has their file open, however it goes."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from sparsepo_dist.errors import RunError


def lock(path: Path) -> IO[bytes] | None:
    """Hold a lock file, made if it is not there; None where another process does. Children that inherit it hold it too.

    Raises:
        RunError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    if _locked(file, fcntl.LOCK_EX):
        return file
    file.close()
    return None


def share(path: Path) -> IO[bytes] | None:
    """As `lock`, beside others that share it; None where a process holds it alone. Raises RunError as there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    if _locked(file, fcntl.LOCK_SH):
        return file
    file.close()
    return None


def held(path: Path) -> bool:
    """Whether some process holds a lock file.

    Raises:
        RunError: the file system has no locks.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not _locked(file, fcntl.LOCK_SH)


def _locked(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RunError(
            f"{file.name} cannot be locked ({os.strerror(error.errno or 0)}), so that two processes could write one "
            "result: use a file system with locks"
        ) from None
    return True

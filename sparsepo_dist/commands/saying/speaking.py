"""What several ranks of a machine have to say, said once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sparsepo_dist.engines.deepspeed.ranks import local_rank, rank, world_size
from sparsepo_dist.errors import UserError

PATIENCE_SECONDS = 3
"""For the first rank of a machine, which speaks for the others where it has the same to say."""
_OLD_SECONDS = 24 * 3600
# What ranks of one launch share, and others do not have.
_LAUNCH = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")


def speak(message: str, write: Callable[[str], object]) -> None:
    """Write a message unless another rank of this machine writes the same; all but rank 0 give their name.

    Ranks learn of each other through a folder of empty files: they may not have joined yet, or no longer. Where none
    can be left, all speak.
    """
    try:
        alone, first, number = world_size() == 1, local_rank() == 0, rank()
    except UserError:  # it is the very thing that is wrong
        alone = True
    if alone:
        write(message)
        return
    mark = _mark(message)
    named = message if number == 0 else f"rank {number} on {socket.gethostname()}: {message}"
    if first:
        write(named)
        _leave(mark)
        return
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if _is_of_now(mark):
            return
        time.sleep(0.05)
    if _leave(mark):
        write(named)


def _mark(message: str) -> Path:
    launch = [os.environ.get(name, "") for name in _LAUNCH]
    key = hashlib.sha256("\n".join([str(os.getppid()), *launch, message]).encode()).hexdigest()
    return Path(tempfile.gettempdir()) / f"sparsepo-said-{os.getuid()}" / key[:32]


def _leave(mark: Path) -> bool:
    """Whether nobody of this launch had left it."""
    try:
        mark.parent.mkdir(mode=0o700, exist_ok=True)
        for old in mark.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another rank was faster
                if time.time() - old.stat().st_mtime > _OLD_SECONDS:
                    old.unlink()
        if not _is_of_now(mark):
            mark.unlink(missing_ok=True)
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def _is_of_now(mark: Path) -> bool:
    """Whether a mark was left while this process lived: the same command may have been started, and refused, before."""
    try:
        return mark.stat().st_mtime >= _started()
    except OSError:
        return False


def _started() -> float:
    """Unix time of this process's start."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))

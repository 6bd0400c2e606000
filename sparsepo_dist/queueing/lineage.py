"""A process that ends with the one that started it, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # of prctl.h
_LIBC = ctypes.CDLL("libc.so.6", use_errno=True)


def ended_with_this() -> Callable[[], None]:
    """What a child of this process calls before its program begins (`preexec_fn`).

    The thread that starts the child must live as long as it may: the kernel tells the child of that thread's end.
    """
    parent = os.getpid()

    def prepare() -> None:
        tell_of_parents_end(signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before we asked to be told
            os._exit(128 + signal.SIGKILL)

    return prepare


def tell_of_parents_end(number: int) -> None:
    """Have this process sent a signal when the thread that started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)

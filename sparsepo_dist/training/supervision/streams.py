"""Standard output and standard error that can be lost: a terminal is closed, a pipe's reader killed, a log's disk full.

What happens to a run is in its folder; what it says is for whoever still listens, and never a reason to end.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_NAMES = {1: "stdout", 2: "stderr"}
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT)


def keep_streams() -> None:
    """From now on nothing that is written to sys.stdout and sys.stderr raises OSError, whoever writes it; the first
    failure is noted on the other stream. Log handlers that hold the old streams are given the new ones.

    Streams that something else has put in their place are left alone.
    """
    for number, name in _NAMES.items():
        _keep_open(number)
        stream: Any = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            kept = _kept(number, stream)
            setattr(sys, name, kept)
            _hand_over(stream, kept)
        elif stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def tell(message: str) -> None:
    """A message on standard error, past Python's buffers, which another thread may hold."""
    with suppress(OSError):
        os.write(2, message.encode())


class _Kept(io.FileIO):
    """A standard stream's file. Where its reader is gone for good, the null device takes the place, for native code and
    for other threads too."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self._noted = False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.lose(error)
            return len(data)

    def lose(self, error: OSError) -> None:
        """Do without the reader."""
        if error.errno not in _MAY_PASS:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
        if not self._noted:
            self._noted = True
            note = f"\nwarning: {_NAMES[self.fileno()]} cannot be written ({error.strerror}); going on without it\n"
            with suppress(OSError):  # both may be gone
                os.write(3 - self.fileno(), note.encode())


def _kept(number: int, stream: io.TextIOWrapper) -> io.TextIOWrapper:
    file = _Kept(number)
    try:
        stream.flush()
    except OSError as error:
        file.lose(error)
        with suppress(OSError):
            stream.flush()
    file.name = f"<{_NAMES[number]}>"
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding=stream.encoding, errors=stream.errors, line_buffering=True
    )


def _keep_open(number: int) -> None:
    """A standard stream that was closed from the start leaves its number to the next file that is opened, perhaps a
    checkpoint's, into which native code would write its messages."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != number:
            os.dup2(null, number)
            os.close(null)


def _hand_over(old: io.TextIOWrapper, new: io.TextIOWrapper) -> None:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.stream = new

"""What a program says, as lines of a log: of a progress bar now and then a state, not every one."""

from __future__ import annotations

import threading
import time
from typing import IO

SECONDS_BETWEEN_STATES = 30.0
_MOST_AT_ONCE = 1 << 16
_LONGEST_LINE = 1 << 20  # a longer one is broken


class LineLog:
    """Copies a pipe to a log until its last writer has gone.

    Args:
        source: the pipe's reading end; closed at its end.
        log: unbuffered.
        between: seconds between two states of a bar, at least; the last one before a line's end is always there.
    """

    def __init__(self, source: IO[bytes], log: IO[bytes], between: float = SECONDS_BETWEEN_STATES) -> None:
        self._source, self._log, self._between = source, log, between
        self._told = time.monotonic()
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until all is copied."""
        self._thread.join()

    def _copy(self) -> None:
        with self._source:
            line = b""
            while part := self._source.read(_MOST_AT_ONCE):
                *whole, line = (line + part).split(b"\n")
                for each in whole:
                    self._log.write(_last_state(each) + b"\n")
                if b"\r" in line:
                    line = self._state(line)
                if len(line) > _LONGEST_LINE:
                    self._log.write(line + b"\n")
                    line = b""
            if line:
                self._log.write(_last_state(line) + b"\n")

    def _state(self, line: bytes) -> bytes:
        """What is kept of a line that a bar is at; its state before is a line of the log if it is time."""
        *before, now = line.split(b"\r")
        told = next((state for state in reversed(before) if state.strip()), b"")
        if told and time.monotonic() - self._told >= self._between:
            self._told = time.monotonic()
            self._log.write(told + b"\n")
            told = b""
        return told + b"\r" + now


def _last_state(line: bytes) -> bytes:
    return next((state for state in reversed(line.split(b"\r")) if state.strip()), b"")

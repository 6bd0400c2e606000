"""Where this rank is in its work: for the message when it fails, and for the watchdog when nothing moves."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Marked by the thread that works, read by others."""

    def __init__(self) -> None:
        self.step = 0
        """The optimizer step under way, counted from 1."""
        self.doing = "starting"
        self.marks = 0
        """How many times the work has moved on: of two ranks in lockstep, the one behind has fewer."""
        self.since = time.monotonic()
        self.left: Callable[[], str] = lambda: "Nothing was written"
        """A sentence on what there is to go on with, for whoever says why the work ended."""

    def at(self, doing: str, *, step: int | None = None) -> None:
        """The work has come to `doing`."""
        if step is not None:
            self.step = step
        self.doing = doing
        self.marks += 1
        self.since = time.monotonic()

    def __str__(self) -> str:
        return f"step {self.step}, {self.doing}"

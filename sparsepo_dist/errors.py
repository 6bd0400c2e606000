"""The exceptions that are written for the user: entry points print them without a stack trace. What messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_CHARACTERS = 80


class UserError(Exception):
    """A mistake the user can mend: its message says what was wrong, where, and what to do."""

    exit_code = 2


class RunError(Exception):
    """A run that cannot go on, through no mistake in its input: its message says what happened and what is left."""

    exit_code = 1


class RankError(RunError):
    """What happened to this rank alone; the others only see it go."""


class StoppedError(Exception):
    """A run that was asked to stop and did, after a checkpoint; a scheduler may start it again."""

    def __init__(self, message: str, *, by_hand: bool = False) -> None:
        super().__init__(message)
        # Schedulers requeue on EX_TEMPFAIL of sysexits.h; shells know 130 as Ctrl-C.
        self.exit_code = 130 if by_hand else 75


class FinishedError(Exception):
    """A run that has nothing left to do: its message says so, and it ends as a run that was trained now."""

    exit_code = 0


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` with the nearest known name; nothing where none is near."""
    near = difflib.get_close_matches(name[:_MOST_CHARACTERS], list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def shortened(text: str, most: int = _MOST_CHARACTERS) -> str:
    """A text on one line, cut after `most` characters: no longer than a message can bear."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[:most]}..."

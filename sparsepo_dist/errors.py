"""The exceptions that are written for the user: entry points print them without a stack trace. What messages share."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

_MOST_CHARACTERS = 80
_TORCH_REFUSAL = "Weights only load failed"
# Control and format characters, halves of characters, line and paragraph separators.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


class UserError(Exception):
    """A mistake the user can mend: its message says what was wrong, where, and what to do."""

    exit_code = 2


class RunError(Exception):
    """A run that cannot go on, through no mistake in its input: its message says what happened and what is left."""

    exit_code = 1


class RankError(RunError):
    """What happened to this rank alone; the others only see it go."""


class HandedOnError(RunError):
    """What ended another rank first, as that one told it: this one ends by it too, with the same exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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
    return f"; did you mean {printable(near[0])}?" if near else ""


def printable(text: str) -> str:
    """A text whose control characters are spelt out: rows, files and models may hold what a terminal would obey.

    Line breaks and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelt(character) for character in text)


def _spelt(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _UNPRINTABLE:
        return character
    return character.encode("unicode_escape").decode()


def unreadable(error: Exception, most: int = 300) -> str:
    """Why a file could not be read, in a line. torch's own advice, to load it unsafely, is not passed on."""
    said = str(error)
    if _TORCH_REFUSAL in said:
        name = re.search(r"GLOBAL ([\w.]+) was not an allowed", said)
        what = shortened(name[1]) if name else "something"
        return f"it holds {what} besides tensors, which may be code: it was not unpickled, and is not to be trusted"
    return shortened(said, most) or type(error).__name__


def shortened(text: str, most: int = _MOST_CHARACTERS) -> str:
    """A text on one line, printable, cut after `most` characters: no longer than a message can bear."""
    line = printable(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[:most]}..."

"""Checks of one part in turn: each is given what is left of the part's time, and what fails ends nothing but itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.worker import ROOT

Facts = dict[str, Any]
MOST_SHOWN = 3000  # characters of what a failed command said last


class FailedError(Exception):
    """A check's target is missed, or what it ran went wrong."""

    def __init__(self, why: str, facts: Facts | None = None) -> None:
        super().__init__(why)
        self.facts = facts or {}


class LeftOutError(FailedError):
    """A check cannot be made on this machine; the message says why."""


@dataclass
class Day:
    """What all checks share."""

    output: Path
    """Folder for results and scratch files."""
    ends: float
    """When the part's time is over, by time.monotonic()."""
    rehearsed: bool = False
    """On a machine without a GPU: the same checks at tiny sizes on the CPU, and the CUDA source run there."""
    data: Path | None = None
    """Folder with hh_harmless_base.jsonl; pairs of random words where there is none."""
    wheels: Path | None = None
    """Folder of wheels that are installed where their packages are missing."""
    measured: dict[str, Any] = field(default_factory=dict)
    """What was measured of which work, so that no two checks measure the same."""

    @property
    def device(self) -> str:
        """Of tensors."""
        return "cpu" if self.rehearsed else "cuda"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def run(self, *command: str | Path, at_most: float = 600, more: Mapping[str, str] | None = None) -> str:
        """What a command prints, its errors behind its output; it and its children end with the part's time.

        Args:
            at_most: seconds.
            more: variables of its environment.

        Raises:
            FailedError: it ended with another code than 0, or its time was over.
        """
        shown = " ".join(map(str, command))
        own = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **(more or {})}
        process = subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, env={**os.environ, **own}, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        seconds = max(1.0, min(at_most, self.left))
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            raise FailedError(f"no end after {seconds:.0f} s: {shown}\n{said[-MOST_SHOWN:]}") from None
        if process.returncode:
            raise FailedError(f"ended with {process.returncode}: {shown}\n{said[-MOST_SHOWN:]}")
        return said

    def python(self, *arguments: str | Path, at_most: float = 600, more: Mapping[str, str] | None = None) -> str:
        """As `run`, of this Python."""
        return self.run(sys.executable, *arguments, at_most=at_most, more=more)


class Check(NamedTuple):
    """One question."""

    name: str
    ask: Callable[[Day], Facts]
    """What was found.

    Raises:
        FailedError: it is not as it should be.
        LeftOutError: it cannot be asked here.
    """


class Outcome(NamedTuple):
    """The answer to one."""

    name: str
    word: str
    """passed, failed or left out."""
    seconds: float
    why: str
    """Empty where it passed."""
    facts: Facts


def answer(check: Check, day: Day) -> Outcome:
    """A check's outcome; whatever it raises becomes one."""
    began = time.monotonic()

    def told(word: str, why: str = "", facts: Facts | None = None) -> Outcome:
        return Outcome(check.name, word, round(time.monotonic() - began, 1), why, facts or {})

    if day.left < 1:
        return told("failed", "the part's time was over before it began")
    try:
        return told("passed", facts=check.ask(day))
    except LeftOutError as reason:
        return told("left out", str(reason), reason.facts)
    except FailedError as failure:
        return told("failed", str(failure), failure.facts)
    except (Exception, SystemExit) as error:  # the others are to be answered all the same
        return told("failed", f"{type(error).__name__}: {error}")


def write_results(path: Path, head: Facts, outcomes: Sequence[Outcome]) -> Facts:
    """PATH as JSON; written after each check, so that a part that is killed leaves what it found. Returned too."""
    found = {
        **head,
        "checks": [outcome._asdict() for outcome in outcomes],
        "failed": [outcome.name for outcome in outcomes if outcome.word == "failed"],
    }
    path.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    return found

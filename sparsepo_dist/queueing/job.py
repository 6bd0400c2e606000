"""A job as a folder: what is to be run, a lock that its living processes hold, how it stands, its log and results."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from sparsepo_dist.disk import write_whole
from sparsepo_dist.errors import UserError
from sparsepo_dist.files import read_json
from sparsepo_dist.queueing.locks import held, lock

QUEUED, RUNNING, INTERRUPTED, DONE, FAILED = "queued", "running", "interrupted", "done", "failed"
JOB, _STATE, _LOCK = "job.json", "state.json", "lock"


@dataclass(frozen=True)
class State:
    """How a job stands."""

    state: str = QUEUED
    attempts: int = 0
    """Started, those that were only interrupted left out."""
    pid: int | None = None
    host: str | None = None
    started: float | None = None
    """Of the last attempt, in seconds since 1970."""
    reason: str | None = None
    """Why it failed or was interrupted, or the last attempt of it was."""

    def done_since(self, written: float) -> bool:
        """Whether it is done, with what was written (seconds since 1970) before it started."""
        return self.state == DONE and (self.started or 0) >= written

    @property
    def final(self) -> bool:
        """Whether nobody will run it before someone submits it again."""
        return self.state in (DONE, FAILED)


@dataclass(frozen=True)
class Job:
    """A command that is to be run once."""

    folder: Path
    name: str
    """How messages call it."""

    @property
    def log(self) -> Path:
        """Output of all its attempts."""
        return self.folder / "log.txt"

    @property
    def results(self) -> Path:
        """Where its command writes."""
        return self.folder / "results"

    def read(self) -> State:
        """What was last written; it may have been interrupted since. Raises UserError where that cannot be read."""
        try:
            return State(**read_json(self.folder / _STATE))
        except FileNotFoundError:
            return State()
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{self.folder / _STATE} cannot be read ({error}); remove it to run the job again"
            ) from None

    def write(self, state: State) -> None:
        """Keep how it stands. Only who holds the lock may."""
        write_whole(self.folder / _STATE, json.dumps(asdict(state), indent=1) + "\n")

    def now(self) -> State:
        """How it stands: a job that says it runs, but whose lock nobody holds, was interrupted without a word.

        Raises:
            UserError: what was last written cannot be read.
            RunError: the file system has no locks.
        """
        state = self.read()
        if state.final or self.held():
            return state
        state = self.read()  # it may have ended between the two looks
        if state.state != RUNNING:
            return state
        reason = f"killed on {state.host} in attempt {state.attempts}, or its machine went"
        return State(INTERRUPTED, state.attempts, reason=reason)

    def command(self) -> list[str]:
        """Its command line, without the interpreter. Raises UserError where it cannot be read."""
        command = record(self.folder / JOB).get("command")
        if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
            raise UserError(f"{self.folder / JOB} holds no command; remove {self.folder} to submit the job again")
        return command

    def claim(self) -> IO[bytes] | None:
        """Hold the job's lock; None where another does. It ends with the last process that has the file open.

        Raises:
            RunError: the file system has no locks.
        """
        return lock(self.folder / _LOCK)

    def renew(self, written: float = 0.0) -> None:
        """Give it all its attempts again, unless someone is at it, or it was done after what it reads was `written`.

        Args:
            written: in seconds since 1970.
        """
        claim = self.claim()
        if claim is not None:
            with claim:
                if not self.read().done_since(written):
                    self.write(State())

    def held(self) -> bool:
        """Whether someone holds the lock. Raises RunError where the file system has no locks."""
        return held(self.folder / _LOCK)


def record(file: Path) -> dict[str, Any]:
    try:
        found = read_json(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); remove {file.parent} to submit the job again") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no job; remove {file.parent} to submit it again")
    return found


def here() -> dict[str, Any]:
    """This process, for a state."""
    return {"pid": os.getpid(), "host": socket.gethostname()}

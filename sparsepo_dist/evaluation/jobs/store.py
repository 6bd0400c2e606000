"""Jobs as folders: what is to be run, a lock that its living processes hold, how it stands, its log and its results."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.jobs.spec import Suite
from sparsepo_dist.evaluation.processes.locks import held, lock
from sparsepo_dist.evaluation.results import write_whole
from sparsepo_dist.files import read_json

QUEUED, RUNNING, INTERRUPTED, DONE, FAILED = "queued", "running", "interrupted", "done", "failed"
_JOB, _STATE, _LOCK = "job.json", "state.json", "lock"


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
        """Whether it is done, with a model that was written (seconds since 1970) before it started."""
        return self.state == DONE and (self.started or 0) >= written

    @property
    def final(self) -> bool:
        """Whether nobody will run it before someone submits it again."""
        return self.state in (DONE, FAILED)


@dataclass(frozen=True)
class Job:
    """One suite on one model."""

    folder: Path
    model: str
    suite: str

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.model}/{self.suite}"

    @property
    def log(self) -> Path:
        """Output of all its attempts."""
        return self.folder / "log.txt"

    @property
    def results(self) -> Path:
        """Where its driver writes."""
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

    @property
    def driver(self) -> str:
        """Its script's file name. Raises UserError where that cannot be read."""
        return str(_record(self.folder / _JOB).get("driver"))

    def command(self) -> list[str]:
        """The driver's command line, without the interpreter. Raises UserError where it cannot be read."""
        command = _record(self.folder / _JOB).get("command")
        if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
            raise UserError(f"{self.folder / _JOB} holds no command; remove {self.folder} to submit the job again")
        return command

    def claim(self) -> IO[bytes] | None:
        """Hold the job's lock; None where another does. It ends with the last process that has the file open.

        Raises:
            RunError: the file system has no locks.
        """
        return lock(self.folder / _LOCK)

    def held(self) -> bool:
        """Whether someone holds the lock. Raises RunError where the file system has no locks."""
        return held(self.folder / _LOCK)


class JobStore:
    """All jobs below an output folder."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output / "jobs"

    def job(self, model: str, suite: str) -> Job:
        """The job of that name, whether it is there or not."""
        return Job(self.folder / model / suite, model, suite)

    def add(self, model: str, path: str, suite: Suite) -> Job:
        """The job of a suite on the model at a path (absolute, or a hub id); made if it is not there.

        Raises:
            UserError: there is one of that name that was done with another model or other options, or its file cannot
                be read.
        """
        job = self.job(model, suite.name)
        identity = {"model": path, "driver": suite.driver.name, "options": list(suite.options)}
        file = job.folder / _JOB
        known = _record(file) if file.is_file() else {}
        changed = [name for name in identity if known and known.get(name) != identity[name]]
        if changed and (job.read().state == DONE or job.held()):
            name = changed[0]
            rename = "model" if name == "model" else "suite"
            raise UserError(
                f"{job.name} was or is being evaluated with another {name} ({known.get(name)}, now {identity[name]}); "
                f"give the {rename} another name, or remove {job.folder}"
            )
        command = [str(suite.driver), "--model", path, "--output", str(job.results), *suite.options]
        record = {**identity, "command": command}
        if record != known:
            write_whole(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        return job

    def all(self) -> Iterator[Job]:
        """Every job that was ever added, by name."""
        for file in sorted(self.folder.glob(f"*/*/{_JOB}")):
            yield Job(file.parent, file.parent.parent.name, file.parent.name)

    def renew(self, job: Job, written: float) -> None:
        """Give a job all its attempts again, unless someone is at it, or it was done after its model was `written`.

        Where the model only looks new, the driver finds its own results again; where it is new, it refuses them.

        Args:
            written: in seconds since 1970.
        """
        claim = job.claim()
        if claim is not None:
            with claim:
                if not job.read().done_since(written):
                    job.write(State())


def _record(file: Path) -> dict[str, Any]:
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

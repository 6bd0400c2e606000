"""The process that runs one job: its command, again when it dies, and the end of all it has started.

It ends with whoever started it, and the command ends with it: nothing goes on writing unseen. It knows no torch, so
that it is there at once and small.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NoReturn

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.queueing.job import DONE, FAILED, INTERRUPTED, QUEUED, RUNNING, Job, State, here
from sparsepo_dist.queueing.lineage import ended_with_this, tell_of_parents_end
from sparsepo_dist.queueing.logs import LineLog

_DONE, _FAILED, _HELD = 0, 10, 11
NOTED = (_DONE, _FAILED, _HELD)
"""Exit codes: the job is done, it failed, another process is at it. After any other it may still say that it runs."""
_PR_SET_CHILD_SUBREAPER = 36  # of prctl.h
_LIBC = ctypes.CDLL("libc.so.6", use_errno=True)
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)  # Slurm's included
_PATIENCE_SECONDS = 2.0  # a look at the lock, by `status`, takes far less
_LONGEST_REASON = 300
_LAST_BYTES = 1 << 20  # of what was said, which may be more than fits in memory


def start(job: Job, retries: int, environment: dict[str, str], held: Sequence[IO[bytes]]) -> subprocess.Popen[bytes]:
    """Start the keeper of a job whose lock is in `held`; it holds all of these files as long as the job lives.

    The calling thread must live as long as the job may: the kernel tells the keeper of that thread's end.
    """
    numbers = [file.fileno() for file in held]
    return subprocess.Popen(
        [*command(job.folder, retries), "--held", *map(str, numbers)],
        env=environment,
        stdin=subprocess.DEVNULL,
        pass_fds=numbers,
        start_new_session=True,  # a terminal's Ctrl-C is for who started it
    )


def command(folder: Path, retries: int) -> list[str]:
    """Command line of a keeper that claims the job by itself and ends with this process."""
    return [sys.executable, "-m", __name__, str(folder), str(retries), str(os.getpid())]


def main() -> int:
    """The keeper's whole life."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("retries", type=int)
    parser.add_argument("parent", type=int)
    parser.add_argument("--held", type=int, nargs="+", default=[])
    given = parser.parse_args()
    for number in _STOPS:
        signal.signal(number, _stop)
    try:
        tell_of_parents_end(signal.SIGTERM)
        if os.getppid() != given.parent:  # it was gone before we asked to be told
            return 128 + signal.SIGTERM
        job = Job(given.folder, f"{given.folder.parent.name}/{given.folder.name}")
        held = list(given.held)
        if not held:
            lock = _claimed(job)
            if lock is None:
                return _HELD
            held.append(lock.fileno())
        return _run(job, given.retries, held)
    except _StoppedError as stopped:
        return 128 + stopped.signal


class _StoppedError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def _stop(number: int, _: object) -> NoReturn:
    for other in _STOPS:
        signal.signal(other, signal.SIG_IGN)  # once is enough, and what follows must not be interrupted
    raise _StoppedError(number)


def _claimed(job: Job) -> IO[bytes] | None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while (lock := job.claim()) is None and time.monotonic() < until:
        time.sleep(0.02)
    return lock


def _run(job: Job, retries: int, held: Sequence[int]) -> int:
    """Attempts until one ends well, ends by a mistake of the user, or was the last."""
    # what descendants leave behind when they die comes to us instead of to init
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    state = job.read()
    while not state.final:
        if state.attempts > retries:
            state = replace(state, state=FAILED, reason=state.reason or "it was killed with its keeper")
        else:
            state = _attempt(job, state, retries, held)
        job.write(state)
    return _DONE if state.state == DONE else _FAILED


def _attempt(job: Job, before: State, retries: int, held: Sequence[int]) -> State:
    """One run of the command; how the job stands after it."""
    begun = State(RUNNING, before.attempts + 1, started=time.time(), reason=before.reason, **here())
    line = [sys.executable, *job.command()]
    with job.log.open("ab", buffering=0) as log:
        try:
            job.write(begun)
            date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            log.write(f"=== attempt {begun.attempts} of {retries + 1}, {date}: {shlex.join(line)}\n".encode())
            offset = log.tell()
            with _Said(log) as said, _Family():
                code = subprocess.Popen(
                    line, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=held,
                    preexec_fn=ended_with_this(),
                ).wait()  # fmt: skip
        except _StoppedError as stopped:
            log.write(f"=== interrupted by {signal.Signals(stopped.signal).name}\n".encode())
            job.write(replace(before, state=INTERRUPTED, reason=_interruption(stopped.signal)))
            raise
    if code == 0:
        return replace(begun, state=DONE, reason=None)
    over = code == UserError.exit_code or begun.attempts > retries
    reason = _reason(code, job.log, offset)
    return replace(begun, state=FAILED if over else QUEUED, reason=reason)


def _interruption(number: int) -> str:
    if number == signal.SIGUSR2 and "SLURM_JOB_ID" in os.environ:
        return "Slurm's time limit, of which SIGUSR2 comes 90 s before: raise slurm.minutes"
    return f"{signal.Signals(number).name} from outside"


class _Said:
    """A pipe into a log; at its end, with all that was written to it in the log."""

    def __init__(self, log: IO[bytes]) -> None:
        self._log = log

    def __enter__(self) -> int:
        source, self._number = os.pipe()
        self._lines = LineLog(os.fdopen(source, "rb", buffering=0), self._log)
        return self._number

    def __exit__(self, *_: Any) -> None:
        os.close(self._number)
        self._lines.finish()


class _Family:
    """What was started inside, and what that has started, is gone afterwards."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # a request to stop waits for this
        # What a child leaves behind becomes our child, for the next round.
        while children := _children():
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def _children() -> list[int]:
    """Process ids, of those that are dead but not waited for too."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after_name.split()[1]) == os.getpid():
            found.append(int(file.parent.name))
    return found


def _reason(code: int, log: Path, offset: int) -> str:
    """The last error or, without one, the last that was said; and how it ended where that says more.

    A launcher of ranks says more behind their error.
    """
    with log.open("rb") as file:
        file.seek(max(offset, file.seek(0, os.SEEK_END) - _LAST_BYTES))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    said = [line.strip() for line in reversed(lines) if line.strip()]
    last = next((line for line in said if line.startswith("error: ")), said[0] if said else "nothing was said")
    if code == UserError.exit_code:
        ended = ""
    elif code == -signal.SIGKILL:
        ended = "killed by SIGKILL, perhaps by the system for want of memory: "
    else:
        ended = f"killed by {signal.Signals(-code).name}: " if code < 0 else f"exit code {code}: "
    return shortened(ended + last, _LONGEST_REASON)


if __name__ == "__main__":
    sys.exit(main())

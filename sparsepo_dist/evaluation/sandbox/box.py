"""One program with its tests in two confined child processes, watched from outside."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.evaluation.sandbox.creations import Creations
from sparsepo_dist.evaluation.sandbox.limits import Limits
from sparsepo_dist.evaluation.sandbox.wire import Channel, LostError

_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_CHILD = "sparsepo_dist.evaluation.sandbox.child"
_END_SECONDS = 2.0


class Verdict(NamedTuple):
    """How a program fared."""

    outcome: str
    """passed, failed (an exception), timed out, out of memory, killed, ended early (before its tests had run), or too
    many files."""
    detail: str = ""
    """The exception's name, the limit, the signal. The program can forge an exception's name, as it cannot a pass."""

    @property
    def passed(self) -> bool:
        """All tests ran to their end."""
        return self.outcome == "passed"


def run(program: str, tests: str, limits: Limits) -> Verdict:
    """Run a program, then its tests on what it defines, and nothing of either after that.

    Raises:
        UserError: this machine cannot confine it; nothing was run.
    """
    job = {"program": program, "limits": limits, "parent": os.getpid()}
    verdict, theirs = socket.socketpair()
    files, their_files = socket.socketpair()
    with verdict, files, tempfile.TemporaryDirectory(prefix="sparsepo-code-") as folder:
        with theirs, their_files, _holding(json.dumps(job)) as job_file, _holding(tests) as tests_file:
            passed_on = (theirs.fileno(), their_files.fileno(), tests_file.fileno())
            child = subprocess.Popen(
                [sys.executable, "-s", "-B", "-m", _CHILD, *map(str, passed_on)],
                stdin=job_file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=_environment(folder),
                pass_fds=passed_on,
                start_new_session=True,
            )
        try:
            return _Watch(child, verdict, files, limits).verdict()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # both: seccomp lets neither leave the group, nor make others
            child.wait()


def _holding(text: str) -> Any:
    file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 the caller closes it
    file.write(text)
    file.seek(0)
    return file


def _environment(folder: str) -> dict[str, str]:
    """All that the child sees: nothing of ours, so no token. One hash seed, so that a verdict can be had again."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {
        "PYTHONPATH": str(_PACKAGE_ROOT),
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "HOME": folder,
        "TMPDIR": folder,
        **one_thread,
    }


class _Watch:
    """Waits for the verdict, and meanwhile answers for the files that the program makes."""

    def __init__(
        self, child: subprocess.Popen[bytes], verdict: socket.socket, files: socket.socket, limits: Limits
    ) -> None:
        self._child, self._verdict, self._files, self._limits = child, verdict, files, limits
        self._creations: Creations | None = None

    def verdict(self) -> Verdict:
        """How the program fared. Raises UserError where it was not run."""
        try:
            found = self._waited()
        finally:
            if self._creations is not None:
                self._creations.close()
        if self._creations is not None and self._creations.refused and found.outcome == "failed":
            return Verdict("too many files", f"above {self._limits.made_files}; then {' '.join(found).strip()}")
        return found

    def _waited(self) -> Verdict:
        deadline = time.monotonic() + self._limits.wall_seconds
        waiting = select.poll()
        waiting.register(self._verdict, select.POLLIN)
        waiting.register(self._files, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            for number, events in waiting.poll(1000 * left):
                if number == self._verdict.fileno():
                    return self._read()
                if number == self._files.fileno():
                    waiting.unregister(self._files)
                    if self._listen():
                        waiting.register(self._creations.listener, select.POLLIN)  # type: ignore[union-attr]
                elif events & select.POLLIN:
                    self._creations.answer()  # type: ignore[union-attr]
                else:
                    waiting.unregister(number)  # the program is gone
        return Verdict("timed out", f"{self._limits.wall_seconds:g} s of wall time")

    def _listen(self) -> bool:
        """Take over the listener; whether there is one."""
        said, numbers, *_ = socket.recv_fds(self._files, 1, 1)
        if said and numbers:
            self._creations = Creations(numbers[0], self._limits.made_files)
        return bool(numbers)

    def _read(self) -> Verdict:
        try:
            said = Channel(self._verdict.fileno()).receive()
        except LostError:
            return self._silent()
        if "refused" in said:
            why = shortened(said["refused"], 300)
            raise UserError(
                f"generated code cannot be confined on this machine, and so is not run: {why}. `execute` needs Linux "
                "5.13 or newer with Landlock and seccomp: run it on another machine, from the same --output"
            )
        return Verdict(*said["verdict"])

    def _silent(self) -> Verdict:
        """What became of tests that ended without a word."""
        try:
            code = self._child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return Verdict("ended early", "its tests closed their channel")
        if code >= 0:
            return Verdict("ended early", f"its tests ended with exit code {code}")
        if code == -signal.SIGXCPU:
            return Verdict("timed out", f"{self._limits.cpu_seconds} s of CPU time, in its tests")
        return Verdict("killed", f"its tests, by {signal.Signals(-code).name}")

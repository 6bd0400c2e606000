"""One program with its tests in a confined child process, watched from outside."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.evaluation.sandbox.child import FAILED, PASSED, REFUSED, TOKEN_BYTES
from sparsepo_dist.evaluation.sandbox.limits import Limits

_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_CHILD = "sparsepo_dist.evaluation.sandbox.child"
_LONGEST_MESSAGE = 1024
_LOOK_EVERY = 0.1
_END_SECONDS = 2.0


class Verdict(NamedTuple):
    """How a program fared."""

    outcome: str
    """passed, failed (an exception), timed out, killed, ended early (without an answer), or too many files."""
    detail: str = ""
    """The exception's name, the limit, the signal. The program can forge it, as it cannot a pass."""

    @property
    def passed(self) -> bool:
        """All tests ran to their end."""
        return self.outcome == "passed"


def run(program: str, tests: str, limits: Limits) -> Verdict:
    """Run a program, then its tests in the program's namespace, and nothing of either after that.

    Raises:
        UserError: this machine cannot confine it; nothing was run.
    """
    token = secrets.token_bytes(TOKEN_BYTES)
    job = {"program": program, "tests": tests, "limits": limits, "parent": os.getpid()}
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryDirectory(prefix="sparsepo-code-") as folder:
        with theirs, tempfile.TemporaryFile("w+", encoding="utf-8") as job_file:
            ours.sendall(token)
            json.dump(job, job_file)
            job_file.seek(0)
            child = subprocess.Popen(
                [sys.executable, "-s", "-B", "-m", _CHILD, str(theirs.fileno())],
                stdin=job_file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=_environment(folder),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            return _watch(child, ours, token, Path(folder), limits)
        finally:
            child.kill()  # it has no children: seccomp lets it make none
            child.wait()


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


def _watch(
    child: subprocess.Popen[bytes], channel: socket.socket, token: bytes, folder: Path, limits: Limits
) -> Verdict:
    deadline = time.monotonic() + limits.wall_seconds
    while (left := deadline - time.monotonic()) > 0:
        channel.settimeout(min(left, _LOOK_EVERY))
        try:
            said = channel.recv(_LONGEST_MESSAGE)
        except TimeoutError:
            if _is_full(folder, limits):
                return Verdict("too many files", f"above {limits.folder_bytes} bytes or {limits.folder_files} files")
            continue
        except ConnectionResetError:  # gone with the token unread
            said = b""
        return _read(said, token) if said else _silent(child)
    return Verdict("timed out", f"{limits.wall_seconds:g} s of wall time")


def _read(said: bytes, token: bytes) -> Verdict:
    if said == token + PASSED:
        return Verdict("passed")
    if said.startswith(token + REFUSED):
        why = shortened(said.removeprefix(token + REFUSED).decode(errors="replace"), 300)
        raise UserError(
            f"generated code cannot be confined on this machine, and so is not run: {why}. `execute` needs Linux 5.13 "
            "or newer with Landlock and seccomp: run it on another machine, from the same --output"
        )
    if said.startswith(FAILED):
        name = said.removeprefix(FAILED).decode(errors="replace")
        return Verdict("failed", name if name.isidentifier() else "")
    return Verdict("failed", "")


def _silent(child: subprocess.Popen[bytes]) -> Verdict:
    """What became of a child that closed its end without a word: it cannot pass any more."""
    try:
        code = child.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        return Verdict("ended early")
    if code == -signal.SIGXCPU:
        return Verdict("timed out", "CPU time")
    if code < 0:
        return Verdict("killed", signal.Signals(-code).name)
    return Verdict("ended early")


def _is_full(folder: Path, limits: Limits) -> bool:
    total = 0
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries, 1):
            try:
                total += entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # removed since
                continue
            if count > limits.folder_files or total > limits.folder_bytes:
                return True
    return False

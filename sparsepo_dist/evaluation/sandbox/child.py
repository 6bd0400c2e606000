"""The process that runs a program and its tests: confines itself, runs both, says how it went.

Started by `box.py` with a job on standard input and a socket's number as argument. A pass is said with the token that
waits in that socket until the tests have run: exiting early with 0 or printing the right words is no pass. (The
program shares this process with its tests, as in the benchmarks' own runners: one written to deceive this very
file could.) Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import sys
import types
from pathlib import Path

from sparsepo_dist.evaluation.sandbox import landlock, seccomp
from sparsepo_dist.evaluation.sandbox.limits import Limits

TOKEN_BYTES = 32
PASSED, FAILED, REFUSED = b"passed", b"failed ", b"refused "
_SET_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
_CAPABILITIES_3 = 0x20080522


def main() -> None:
    """Run the job on standard input; ends the process."""
    channel = int(sys.argv[1])
    job = json.load(sys.stdin)
    write, read, leave = os.write, os.read, os._exit  # the program may replace them
    try:
        _confine(Limits(*job["limits"]), job["parent"])
    except (OSError, ValueError) as error:
        write(channel, read(channel, TOKEN_BYTES) + REFUSED + str(error).encode())
        leave(1)
    try:
        # Apart from each other: what the program leaves open, a string or a bracket, cannot swallow its tests.
        module = types.ModuleType("solution")
        sys.modules["solution"] = module
        exec(compile(job["program"], "<program>", "exec", dont_inherit=True), module.__dict__)
        exec(compile(job["tests"], "<tests>", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        write(channel, FAILED + type(error).__name__.encode()[:100])
    else:
        write(channel, read(channel, TOKEN_BYTES) + PASSED)
    leave(0)


def _confine(limits: Limits, parent: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    libc = landlock.LIBC
    landlock.checked(libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "the signal of a parent's death")
    if os.getppid() != parent:
        raise OSError("its parent is gone")
    landlock.checked(libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    landlock.restrict(str(Path.cwd()))
    _drop_capabilities()
    _limit(limits)
    seccomp.restrict()


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    none = (ctypes.c_uint32 * 6)()
    landlock.checked(landlock.LIBC.capset(header, none), "dropping capabilities")


def _limit(limits: Limits) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime) + limits.cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # a signal that can be caught, then one that cannot
    for kind, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    main()

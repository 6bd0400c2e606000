"""The process that runs the tests. It forks the program's process before it knows them, and says how they ended.

Started by `box.py` with three numbers of open files: the socket of the verdict, the socket on which the program's
process hands over the listener of the files it makes, and a file with the tests. Standard library only.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import math
import os
import resource
import signal
import socket
import sys
import time
import types
from pathlib import Path
from typing import NoReturn

from sparsepo_dist.evaluation.sandbox import landlock, seccomp
from sparsepo_dist.evaluation.sandbox.creations import ask_for_creations
from sparsepo_dist.evaluation.sandbox.limits import Limits
from sparsepo_dist.evaluation.sandbox.program import run_program
from sparsepo_dist.evaluation.sandbox.proxies import ProgramError, Remote
from sparsepo_dist.evaluation.sandbox.wire import Channel, LostError

_SET_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
_CAPABILITIES_3 = 0x20080522
_READY = "ready"
_END_SECONDS = 2.0
# The kernel counts a limit of CPU time in ticks of its clock, and says exact times: on a shared machine far less.
_LEAST_SHARE_OF_LIMIT = 0.5


def main() -> NoReturn:
    """Run the job on standard input; ends the process."""
    verdict, files, tests_file = map(int, sys.argv[1:])
    sys.path[:] = [entry for entry in sys.path if Path(entry) != Path.cwd()]  # where the program writes
    sys.set_int_max_str_digits(0)
    job = json.load(sys.stdin)
    limits = Limits(*job["limits"])
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        for number in (verdict, tests_file, ours.detach()):
            os.close(number)
        _program(theirs.detach(), files, job["program"], limits)
    os.close(files)
    theirs.close()
    said = Channel(verdict)
    try:
        _confine(limits, job["parent"], folder=None)
        seccomp.restrict()
    except (OSError, ValueError) as error:
        said.send({"refused": str(error)})
        os._exit(1)
    said.send(_judged(Channel(ours.fileno()), tests_file, pid, limits))
    os._exit(0)


def _program(channel_number: int, files: int, program: str, limits: Limits) -> NoReturn:
    """The whole life of the program's process."""
    channel = Channel(channel_number)
    try:
        _confine(limits, os.getppid(), folder=Path.cwd(), exact=True)
        listener = ask_for_creations()
        with socket.socket(fileno=files) as way:
            socket.send_fds(way, [b"."], [listener])
        os.close(listener)  # or the program would answer for itself
        seccomp.restrict()
    except (OSError, ValueError) as error:
        channel.send(str(error))
        os._exit(1)
    channel.send(_READY)
    run_program(channel, program)
    os._exit(0)


def _judged(channel: Channel, tests_file: int, pid: int, limits: Limits) -> dict[str, object]:
    """What is to be said of the program."""
    try:
        state = channel.receive()
        if state != _READY:
            return {"refused": str(state)}
        remote = Remote(channel)
        remote.loaded()
        with os.fdopen(tests_file, encoding="utf-8") as file:
            code = compile(file.read(), "<tests>", "exec", dont_inherit=True)
        exec(code, {**_given(remote, code), "__name__": "solution"})
    except LostError:
        return {"verdict": _end_of(pid, limits)}
    except ProgramError as error:
        return {"verdict": _failed(error.name, limits)}
    except BaseException as error:
        return {"verdict": _failed(type(error).__name__, limits)}
    return {"verdict": ("passed", "")}


def _given(remote: Remote, tests: types.CodeType) -> dict[str, object]:
    """What the tests use of the program.

    A name that is also Python's own (a function as `abs`, a module as `math`) means the program's only in tests that
    use nothing else of it.
    """
    found = remote.names(sorted(_names(tests)))
    own = {name: value for name, value in found.items() if not _of_python(name)}
    return {"__builtins__": builtins, **(own or found)}


def _of_python(name: str) -> bool:
    return hasattr(builtins, name) or name in sys.stdlib_module_names


def _names(code: types.CodeType) -> set[str]:
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _failed(name: str, limits: Limits) -> tuple[str, str]:
    if name == MemoryError.__name__:
        return "out of memory", f"{limits.memory_bytes >> 20} MiB of address space"
    return "failed", name if name.isidentifier() else ""


def _end_of(pid: int, limits: Limits) -> tuple[str, str]:
    """What became of a program that closed its end."""
    until = time.monotonic() + _END_SECONDS
    found, status, used = os.wait4(pid, os.WNOHANG)
    while not found and time.monotonic() < until:
        time.sleep(0.01)
        found, status, used = os.wait4(pid, os.WNOHANG)
    if not found:
        return "ended early", "it closed its channel"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return "ended early", f"exit code {code} before its tests had run"
    if code == -signal.SIGKILL:
        if used.ru_utime + used.ru_stime > limits.cpu_seconds * _LEAST_SHARE_OF_LIMIT:
            return "timed out", f"{limits.cpu_seconds} s of CPU time"
        return "killed", "SIGKILL, not by a limit of its own: the system does so for want of memory"
    return "killed", signal.Signals(-code).name


def _confine(limits: Limits, parent: int, *, folder: Path | None, exact: bool = False) -> None:
    """Everything but seccomp's list of calls.

    Args:
        parent: the process that must not be gone.
        folder: what can be written.
        exact: limit the CPU time of this process from its very start, as its fork's.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    libc = landlock.LIBC
    landlock.checked(libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "the signal of a parent's death")
    if os.getppid() != parent:
        raise OSError("its parent is gone")
    landlock.checked(libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    landlock.restrict(folder)
    _drop_capabilities()
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = limits.cpu_seconds + (0 if exact else math.ceil(used.ru_utime + used.ru_stime))
    # A program could catch the softer limit's signal; of the tests' process it says what ended it.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds if exact else seconds + 1))
    for kind, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    none = (ctypes.c_uint32 * 6)()
    landlock.checked(landlock.LIBC.capset(header, none), "dropping capabilities")


if __name__ == "__main__":
    main()

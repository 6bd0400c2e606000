"""What a program cannot do, whatever it tries; what right ones can; machines where it cannot be kept from it."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sparsepo_dist.evaluation.sandbox import box
from sparsepo_dist.evaluation.sandbox.box import Verdict, run
from sparsepo_dist.evaluation.sandbox.limits import MEGABYTE, Limits

# Wall time is long: on a busy machine none of these may end by it.
LIMITS = Limits(cpu_seconds=1, wall_seconds=120.0, memory_bytes=256 * MEGABYTE, file_bytes=MEGABYTE)
ROOT = Path(__file__).resolve().parents[3]


def outcome(program: str, tests: str = "", limits: Limits = LIMITS) -> Verdict:
    return run(program, tests, limits)


@pytest.mark.parametrize(
    "program",
    [
        "import numpy\nx = int(numpy.ones((9, 9)).sum()) == 81",
        "import threading\nx = []\nt = threading.Thread(target=x.append, args=(1,))\nt.start()\nt.join()",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 1\nx = asyncio.run(f())",
        "with open('notes', 'w') as file:\n    file.write('y')\nx = open('notes').read() == 'y'",
        "import os\nx = os.listdir() == [] and os.getcwd() == os.environ['HOME']",
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n    v: 'int'\nx = C(1).v",
        "import os\nos._exit = os.write = os.read = print\nx = 1",
        "x = 1\nif __name__ == '__main__':\n    raise ValueError",
        "print('failed')\nx = 1",
    ],
    ids=["numpy", "thread", "asyncio", "file", "empty folder", "dataclass", "os replaced", "main block", "output"],
)
def test_right_programs_pass_and_fail_other_tests(program: str) -> None:
    assert outcome(program, "assert x").passed
    assert outcome(program, "assert not x") == ("failed", "AssertionError")


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "raise KeyboardInterrupt",
        "import ctypes\nctypes.CDLL(None)._exit(0)",
        "import os\nos.abort()",
        "print('passed', flush=True)\nimport os\nos._exit(0)",
        "import os\nfor n in range(3, 64):\n  try:\n    os.write(n, b'passed')\n  except OSError:\n    pass",
        "import os\nos.closerange(0, 64)",
        "import atexit\natexit.register(print, 'passed')",
        "import sys\nsys.excepthook = lambda *_: print('passed')",
        "import builtins\nbuiltins.AssertionError = None",
        'x = """',
        "x = (",
        "if False:\\",
    ],
)
def test_no_pass_can_be_had_without_the_tests(program: str) -> None:
    assert not outcome(program, '# a comment with """ and )\nassert False').passed


def test_endless_programs_are_ended() -> None:
    spent = ("timed out", "1 s of CPU time")
    assert outcome("while True: pass") == spent
    assert outcome("import signal\nsignal.signal(signal.SIGXCPU, print)\nwhile True: pass") == spent
    assert outcome("def f():\n    while True: print('x' * 1_000_000)", "f()") == spent
    endless = "def f():\n    while True: yield 1"
    assert outcome(endless, "for x in f(): pass").outcome == "timed out"
    sleeps = "import time, signal\nsignal.signal(signal.SIGTERM, print)\ntime.sleep(1000)"
    assert outcome(sleeps, limits=LIMITS._replace(wall_seconds=2.0)) == ("timed out", "2 s of wall time")


def test_memory_is_limited() -> None:
    used_up = ("out of memory", "256 MiB of address space")
    assert outcome("x = []\nwhile True: x.append(bytearray(1_000_000))") == used_up
    assert outcome("def f(): return bytearray(300_000_000)", "f()") == used_up
    threads = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()"
    assert outcome(threads).outcome == "failed"


def test_files_are_limited_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert outcome("with open('large', 'wb') as file:\n    while True: file.write(bytes(100_000))") == (
        "failed",
        "OSError",
    )
    many = "for n in range(99):\n    open(str(n), 'wb').write(bytes(1000))"
    too_many = Verdict("too many files", "above 50; then failed OSError")
    assert outcome(many, limits=LIMITS._replace(made_files=50)) == too_many
    assert outcome(many, limits=LIMITS._replace(made_files=99)).passed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "attempt",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import subprocess\nsubprocess.Popen('sleep 1000 &', shell=True, start_new_session=True)",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import os\nos.execv('/bin/true', ['true'])",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "import os, ctypes\nif ctypes.CDLL(None).vfork() == -1: raise OSError",
        "import os\nos.setsid()",
        "import os\nos.pidfd_open(os.getppid())",
    ],
)
def test_no_process_is_made(attempt: str) -> None:
    assert outcome(attempt).detail.endswith("Error")


def test_nothing_runs_on_after_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            started.append(self.pid)

    monkeypatch.setattr(box.subprocess, "Popen", Recorded)
    endless = "import threading\ndef f():\n    while True: pass\nthreading.Thread(target=f).start()\nx = 1"
    assert outcome(endless, "assert x").passed
    assert len(started) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_no_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        for each in (listener, local):
            each.setblocking(False)
        connect = f"import socket\nsocket.create_connection(('127.0.0.1', {listener.getsockname()[1]}))"
        assert outcome(connect) == ("failed", "OSError")
        connect = f"import socket\nsocket.socket(socket.AF_UNIX).connect({str(tmp_path / 'socket')!r})"
        assert outcome(connect) == ("failed", "OSError")
        assert outcome("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)") == ("failed", "OSError")
        for each in (listener, local):
            with pytest.raises(BlockingIOError):
                each.accept()


def test_nothing_outside_is_written_or_read(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    target.chmod(0o644)
    actions = [
        f"open({str(target)!r})",
        f"open({str(target)!r}, 'w')",
        f"open({str(target)!r}, 'a')",
        f"open({str(tmp_path / 'new')!r}, 'x')",
        f"os.open({str(target)!r}, os.O_RDONLY | os.O_TRUNC)",
        f"os.truncate({str(target)!r}, 0)",
        f"os.unlink({str(target)!r})",
        f"os.rename({str(target)!r}, 'mine')",
        f"os.link({str(target)!r}, 'mine')",
        f"os.symlink({str(target)!r}, 'mine')",
        f"os.chmod({str(target)!r}, 0o600)",
        f"os.utime({str(target)!r})",
        f"os.mkdir({str(tmp_path / 'folder')!r})",
        f"os.mkfifo({str(tmp_path / 'pipe')!r})",
        f"os.listdir({str(tmp_path)!r})",
        "open('../escaped', 'w')",
        "open('/dev/shm/escaped', 'w')",
        f"open({str(Path(sys.prefix) / 'escaped')!r}, 'w')",
    ]
    lines = ["import os", "allowed = []", "def attempt(action):", "    try:", "        eval(action)"]
    lines += ["        allowed.append(action)", "    except OSError:", "        pass"]
    program = "\n".join([*lines, *(f"attempt({action!r})" for action in actions)])
    assert outcome(program, "assert not allowed, allowed") == ("passed", "")
    assert target.read_text() == "kept" and target.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [target]
    assert not Path("/dev/shm/escaped").exists() and not (Path(sys.prefix) / "escaped").exists()


def test_secrets_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a secret")
    assert outcome("import os\nx = [name for name in os.environ if 'TOKEN' in name]", "assert x == []").passed
    for file in (f"/proc/{os.getpid()}/environ", f"/proc/{os.getpid()}/mem", f"/proc/{os.getpid()}/fd"):
        assert (
            outcome(f"import os\n(os.listdir if {file.endswith('fd')} else open)({file!r})").detail == "PermissionError"
        )


@pytest.mark.parametrize(
    "attempt",
    [
        # SIGCONT would be delivered without harm; who may send it may send SIGKILL.
        "os.kill(os.getppid(), signal.SIGCONT)",
        "os.killpg(os.getpgid(os.getppid()), signal.SIGCONT)",
        "os.kill(-1, signal.SIGCONT)",
        "fcntl.fcntl(os.pipe()[0], 8, os.getppid())",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "os.sched_setaffinity(os.getppid(), {0})",
        "resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))",
    ],
)
def test_its_parent_and_its_limits_are_out_of_reach(attempt: str) -> None:
    verdict = outcome(f"import fcntl, os, resource, signal\n{attempt}")
    assert verdict.outcome == "failed" and verdict.detail in ("OSError", "PermissionError", "ValueError")


WEAKENED = """
import ctypes, struct, sys
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.sandbox.landlock import LIBC
from sparsepo_dist.evaluation.sandbox.limits import Limits
from sparsepo_dist.evaluation.sandbox.seccomp import Program
from sparsepo_dist.evaluation.sandbox.self_test import check_machine
number, answer, *first = (int(word) for word in sys.argv[1:])
of_argument = [(0x20, 0, 0, 16), (0x15, 0, 1, first[0])] if first else []
code = b"".join(struct.pack("=HBBI", *each) for each in [
    (0x20, 0, 0, 0), (0x15, 0, len(of_argument) + 1, number), *of_argument, (0x06, 0, 0, 0x50000 | answer),
    (0x06, 0, 0, 0x7FFF0000)])
assert LIBC.prctl(38, 1, 0, 0, 0) == 0 and LIBC.prctl(22, 2, ctypes.byref(Program(len(code) // 8, code)), 0, 0) == 0
try:
    check_machine(Limits())
except UserError as error:
    print(error)
"""
ENOSYS, EINVAL, SUCCESS = 38, 22, 0
LANDLOCK_CREATE, LANDLOCK_RESTRICT, PRCTL, PRLIMIT = 444, 446, 157, 302
SET_SECCOMP, SET_NO_NEW_PRIVILEGES = 22, 38


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86_64's")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        ((LANDLOCK_CREATE, ENOSYS), "cannot be confined on this machine, and so is not run: Landlock is not there"),
        ((LANDLOCK_RESTRICT, SUCCESS), "the self-test of files outside ended with 'failed AssertionError'"),
        ((PRCTL, EINVAL, SET_SECCOMP), "cannot be confined on this machine, and so is not run: .*seccomp's filter"),
        ((PRCTL, SUCCESS, SET_SECCOMP), "the self-test of the network ended with 'failed AssertionError'"),
        ((PRCTL, EINVAL, SET_NO_NEW_PRIVILEGES), "cannot be confined on this machine.*no new privileges"),
        ((PRLIMIT, SUCCESS), "the self-test of its limits ended with 'failed AssertionError'"),
    ],
    ids=["no Landlock", "idle Landlock", "no seccomp", "idle seccomp", "no no_new_privs", "idle limits"],
)
def test_a_machine_that_cannot_confine_is_refused(call: tuple[int, ...], said: str) -> None:
    """Such machines are imitated by a filter that answers a system call in the kernel's place."""
    arguments = [sys.executable, "-c", WEAKENED, *map(str, call)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True)
    assert re.search(said, done.stdout), done.stdout

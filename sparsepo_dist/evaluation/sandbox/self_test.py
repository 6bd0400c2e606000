"""Whether this machine confines programs: harmless ones try what generated ones might."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.sandbox.box import run
from sparsepo_dist.evaluation.sandbox.limits import Limits

_REFUSED = """
def make(number):
    open(f'made{number}', 'w').close()

def refused(action, *arguments):
    try:
        action(*arguments)
    except (OSError, ValueError, MemoryError):
        return True
    return False
"""


class _Probe(NamedTuple):
    guarantee: str
    """What is broken if the program does not fare as it should."""
    program: str
    tests: str
    outcome: str = "passed"


def check_machine(limits: Limits) -> None:
    """Try the sandbox on this machine; a second or two.

    Raises:
        UserError: something is not kept from a program, and what; or programs cannot run at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        outside = Path(folder) / "outside"
        outside.write_text("untouched", encoding="utf-8")
        for probe in _probes(outside, limits):
            verdict = run(_REFUSED + probe.program, probe.tests, limits)
            if verdict.outcome != probe.outcome:
                raise UserError(
                    f"generated code is not run on this machine: the self-test of {probe.guarantee} ended with "
                    f"'{' '.join(filter(None, verdict))}'; run `execute` on another one (Linux 5.13 or newer, x86_64 "
                    "or aarch64, with Landlock and seccomp), from the same --output"
                )
        if [path.name for path in Path(folder).iterdir()] != ["outside"] or outside.read_text() != "untouched":
            raise UserError("generated code is not run on this machine: a program wrote outside its folder")


def _probes(outside: Path, limits: Limits) -> list[_Probe]:
    parent = os.getpid()
    path = str(outside)
    return [
        _Probe("running a right program", "import threading, json, decimal\nx = 1", "assert x == 1"),
        _Probe("failing a wrong program", "x = 1", "assert x == 2", "failed"),
        _Probe("ending before the tests", "import os\nos._exit(0)", "", "ended early"),
        _Probe("files in its own folder", "open('own', 'w').write('x')\nx = open('own').read()", "assert x == 'x'"),
        _Probe("files in all", "", f"for n in range({limits.made_files + 1}): assert not make(n)", "too many files"),
        _denied(
            "the network",
            "import socket",
            "refused(socket.socket)",
            "refused(socket.socket, socket.AF_INET6)",
            "refused(socket.socket, socket.AF_UNIX)",
        ),
        _denied("processes", "import os", "refused(os.fork)", "refused(os.execv, '/bin/true', ['true'])"),
        _denied(
            "files outside",
            "import os",
            f"refused(open, {path!r})",
            f"refused(open, {path!r}, 'w')",
            f"refused(open, {path + '-new'!r}, 'w')",
            f"refused(os.open, {path!r}, os.O_RDONLY | os.O_TRUNC)",
            f"refused(os.truncate, {path!r}, 0)",
            f"refused(os.remove, {path!r})",
            f"refused(os.rename, {path!r}, {path + '-new'!r})",
            f"refused(os.chmod, {path!r}, 0)",
            f"refused(os.mkdir, {path + '-folder'!r})",
        ),
        _denied(
            "other processes",
            "import os, resource",
            f"refused(os.kill, {parent}, 0)",
            "refused(os.kill, os.getppid(), 0)",
            f"refused(open, '/proc/{parent}/environ')",
            "refused(open, f'/proc/{os.getppid()}/mem', 'rb')",
            f"refused(resource.prlimit, {parent}, resource.RLIMIT_CPU)",
        ),
        _denied(
            "its limits",
            f"import resource\nfile = open('large', 'wb', buffering=0)\nfile.truncate({limits.file_bytes})\n"
            "file.seek(0, 2)",
            f"refused(resource.setrlimit, resource.RLIMIT_AS, ({2 * limits.memory_bytes},) * 2)",
            f"refused(bytearray, {2 * limits.memory_bytes})",
            "refused(file.write, b'x')",
        ),
    ]


def _denied(guarantee: str, beginning: str, *attempts: str) -> _Probe:
    """A program that tries; its tests see what came of it."""
    return _Probe(
        guarantee, f"{beginning}\nfound = [{', '.join(attempts)}]", f"assert found == [True] * {len(attempts)}"
    )

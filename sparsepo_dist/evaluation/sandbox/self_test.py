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
        _Probe("files in its own folder", "open('own', 'w').write('x')", "assert open('own').read() == 'x'"),
        _Probe(
            "the network",
            "import socket",
            "assert refused(socket.socket)\n"
            "assert refused(socket.socket, socket.AF_INET6)\n"
            "assert refused(socket.socket, socket.AF_UNIX)",
        ),
        _Probe("processes", "import os", "assert refused(os.fork)\nassert refused(os.execv, '/bin/true', ['true'])"),
        _Probe(
            "files outside",
            "import os",
            f"assert refused(open, {path!r})\n"
            f"assert refused(open, {path!r}, 'w')\n"
            f"assert refused(open, {path + '-new'!r}, 'w')\n"
            f"assert refused(os.open, {path!r}, os.O_RDONLY | os.O_TRUNC)\n"
            f"assert refused(os.truncate, {path!r}, 0)\n"
            f"assert refused(os.remove, {path!r})\n"
            f"assert refused(os.rename, {path!r}, {path + '-new'!r})\n"
            f"assert refused(os.chmod, {path!r}, 0)\n"
            f"assert refused(os.mkdir, {path + '-folder'!r})",
        ),
        _Probe(
            "other processes",
            "import os, resource",
            f"assert refused(os.kill, {parent}, 0)\n"
            f"assert refused(open, '/proc/{parent}/environ')\n"
            f"assert refused(open, '/proc/{parent}/mem', 'rb')\n"
            f"assert refused(resource.prlimit, {parent}, resource.RLIMIT_CPU)",
        ),
        _Probe(
            "its limits",
            "import resource",
            f"assert refused(resource.setrlimit, resource.RLIMIT_AS, ({2 * limits.memory_bytes},) * 2)\n"
            f"assert refused(bytearray, {2 * limits.memory_bytes})\n"
            f"file = open('large', 'wb', buffering=0)\n"
            f"file.truncate({limits.file_bytes})\n"
            f"file.seek(0, 2)\n"
            "assert refused(file.write, b'x')",
        ),
    ]

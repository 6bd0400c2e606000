"""Programs that try to pass without solving anything, or to use more than they may: each fails, and it is said why."""

from __future__ import annotations

import pytest

from sparsepo_dist.evaluation.sandbox.box import Verdict, run
from sparsepo_dist.evaluation.sandbox.limits import Limits

LIMITS = Limits(cpu_seconds=3, wall_seconds=120.0)
TESTS = "def check(candidate):\n    assert candidate(3) == 10\n    assert abs(candidate(4) - 17) < 1e-6\n\ncheck(f)"
WRONG = ("failed", "AssertionError")
EARLY = ("ended early", "exit code 0 before its tests had run")


def verdict(program: str, tests: str = TESTS) -> Verdict:
    return run(program, tests, LIMITS)


def test_the_tests_are_fair() -> None:
    assert verdict("def f(x): return x * x + 1").passed
    assert verdict("def f(x): return x") == WRONG


FORGERIES = {
    "exec and compile replaced": (
        "import builtins\nbuiltins.exec = builtins.compile = lambda *_, **__: None\ndef f(x): return 0", WRONG,
    ),
    "builtins replaced": (
        "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = None\n"
        "def abs(x): return 0\ndef check(c): pass\ndef f(x): return 10", WRONG,
    ),
    "the verdict's words": (
        "import json, os\nsaid = json.dumps({'verdict': ['passed', '']}).encode()\n"
        "for n in range(3, 64):\n  for message in (said, len(said).to_bytes(8, 'big') + said, b'passed'):\n"
        "    try: os.write(n, message)\n    except OSError: pass\nprint('passed', flush=True)\nos._exit(0)",
        ("failed", "ValueError"),
    ),
    "an end before the tests": ("import os\nos._exit(0)", EARLY),
    "an end within the tests": ("import os\ndef f(x): os._exit(0)", EARLY),
    "an end by ctypes": ("import ctypes\nctypes.CDLL(None)._exit(0)", EARLY),
    "an end by ctypes within the tests": ("import ctypes\ndef f(x): ctypes.CDLL(None)._exit(0)", EARLY),
    "the channel closed": ("import os\nos.closerange(0, 64)\nimport time\ntime.sleep(99)", ("ended early", None)),
    "a value that equals all": (
        "class Any:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
        "    def __bool__(self): return True\n    __hash__ = None\ndef f(x): return Any()", WRONG,
    ),
    "a number that equals all": (
        "class Any(int):\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
        "def f(x): return Any(0)", WRONG,
    ),
    "a value that is near all": (
        "class Near:\n    def __sub__(self, other): return self\n    def __abs__(self): return self\n"
        "    def __lt__(self, other): return True\ndef f(x): return 10 if x == 3 else Near()", ("failed", "TypeError"),
    ),
    "a value of a false class": (
        "class Liar:\n    __class__ = int\n    def __eq__(self, other): return True\ndef f(x): return Liar()",
        ("failed", "TypeError"),
    ),
    "frames above": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n"
        "    for names in (frame.f_locals, frame.f_globals):\n"
        "        for name in ('tests', 'code', 'said'):\n            names[name] = ''\n    frame = frame.f_back\n"
        "def f(x): return 0", WRONG,
    ),
    "its globals' exec": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n    frame.f_globals['exec'] = print\n"
        "    frame = frame.f_back\ndef f(x): return 0", WRONG,
    ),
    "a trace of the tests": (
        "import sys\ndef trace(frame, event, value): return trace\nsys.settrace(trace)\ndef f(x): return 0", WRONG,
    ),
    "code at its exit": ("import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0", WRONG),
    "a child that answers": ("import os\nif os.fork(): os._exit(0)\ndef f(x): return 10", ("failed", "OSError")),
    "a child that outlives": (
        "import subprocess\nsubprocess.Popen(['sleep', '99'], start_new_session=True)", ("failed", "OSError"),
    ),
    "a module of its own in the tests' way": (
        "open('math.py', 'w').write('isclose = lambda *_, **__: True')\n"
        "class math:\n    isclose = staticmethod(lambda *_, **__: True)\ndef f(x): return 0", WRONG,
    ),
    "a socket": ("import socket\nsocket.create_connection(('127.0.0.1', 1))", ("failed", "OSError")),
    "shared memory": ("open('/dev/shm/x', 'w')", ("failed", "PermissionError")),
    "an anonymous file": ("import os\nos.memfd_create('x')", ("failed", "OSError")),
    "its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", ("failed", "OSError")),
    "a segmentation fault": ("import ctypes\nctypes.string_at(0)", ("killed", "SIGSEGV")),
}  # fmt: skip


@pytest.mark.parametrize("attack", FORGERIES)
def test_a_pass_cannot_be_forged(attack: str) -> None:
    program, (outcome, detail) = FORGERIES[attack]
    tests = TESTS.replace("abs(candidate(4) - 17) < 1e-6", "math.isclose(candidate(4), 17)")
    found = verdict(program, "import math\n" + tests if "math" in program else TESTS)
    assert found.outcome == outcome and detail in (found.detail, None), found


def test_what_the_tests_expect_is_nowhere_in_the_programs_process() -> None:
    program = """
import gc, os
def search():
    needle = ''.join(['se', 'cret'])
    words = [word for each in gc.get_objects() if isinstance(each, dict) for pair in each.items() for word in pair]
    found = [word for word in words if isinstance(word, str) and needle in word]
    for number in range(64):
        try:
            os.lseek(number, 0, 0)
            found.append(needle) if needle.encode() in os.read(number, 1 << 16) else None
        except OSError:
            pass
    for name in ('mem', 'maps', 'fd/3'):
        try:
            open(f'/proc/self/{name}', 'rb')
            found.append(name)
        except OSError:
            pass
    return found
at_once = search()
def f(x): return at_once + search()
"""
    assert verdict(program, "# a secret\nassert f(0) == [], f(0)").passed


HOARDERS = {
    "named": "",
    "unlinked and open": "os.unlink(str(n))",
    "unlinked, mapped and closed": (
        "os.unlink(str(n)); maps.append(mmap.mmap(file, 4096, flags=mmap.MAP_PRIVATE)); os.close(file); opened.pop()"
    ),
    "removed and closed": "os.unlink(str(n)); os.close(file); opened.pop()",
}


@pytest.mark.parametrize("what", HOARDERS)
@pytest.mark.parametrize("flag", ["os.O_CREAT", "os.O_TMPFILE"])
def test_all_files_together_have_a_bound(what: str, flag: str) -> None:
    then = HOARDERS[what] if flag == "os.O_CREAT" else HOARDERS[what].replace("os.unlink(str(n))", "None")
    program = f"""
import mmap, os
written, maps, opened = 0, [], []
for n in range(200):
    try:
        file = os.open(str(n) if {flag} == os.O_CREAT else '.', {flag} | os.O_RDWR, 0o600)
        opened.append(file)
        os.write(file, bytes(1 << 16))
        written += 1 << 16
        {then or "None"}
        try:
            os.write(file, bytes(1 << 16))
            written += 1 << 16
        except OSError:
            pass
    except OSError:
        pass
def f(): return written
"""
    found = run(program, "n = f()\nassert 0 < n <= 12 << 16, n", LIMITS._replace(file_bytes=1 << 16, made_files=12))
    assert found.passed, found

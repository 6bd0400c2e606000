"""Processes that lose their standard streams, in the ways that a shell and a machine know."""

from __future__ import annotations

import os
import subprocess
import sys

IMPORTS = "import logging, os, sys\nfrom sparsepo_dist.training.supervision.streams import keep_streams, tell\n"
NOTE = "\nwarning: stdout cannot be written (Broken pipe); going on without it\n"


def unread(code: str) -> tuple[int, str]:
    """Run code whose standard output nobody reads, from its first word on: (exit code, standard error)."""
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTS + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    return process.returncode, said


def shell(redirection: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code with a redirection of bash."""
    return subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, IMPORTS + code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_reader_that_goes_away_is_noted_once() -> None:
    assert unread("keep_streams()\nfor word in range(100): print(word, flush=True)") == (0, NOTE)


def test_words_from_before_and_log_handlers_from_before() -> None:
    code = """
print("in the buffer")
logging.basicConfig(stream=sys.stdout)
keep_streams()
for word in range(100): logging.warning(word)
"""
    assert unread(code) == (0, NOTE)


def test_native_code_writes_on_once_the_loss_is_known() -> None:
    assert unread("keep_streams()\nprint('noticed')\nassert os.write(1, b'words') == 5") == (0, NOTE)


def test_both_are_gone() -> None:
    code = "keep_streams()\nprint('o')\nprint('e', file=sys.stderr)\ntell('t')"
    done = shell("> /dev/full 2>&1", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_full_disk_takes_words_again_when_it_has_room() -> None:
    code = """
keep_streams()
print("lost")
os.dup2(2, 1)
print("taken")
"""
    done = shell("> /dev/full", code)
    assert done.returncode == 0
    assert done.stderr == NOTE.replace("Broken pipe", "No space left on device") + "taken\n"


def test_closed_from_the_start() -> None:
    """No file gets the number of a standard stream: messages of native code would end up in it."""
    code = """
keep_streams()
file = os.open("/dev/null", os.O_RDONLY)
assert file > 2, file
print("words"); print("words", file=sys.stderr); tell("words"); logging.warning("words")
"""
    assert shell(">&- 2>&-", code).returncode == 0


def test_what_is_heard_arrives_in_order() -> None:
    done = shell(
        "2>&1", "print('1 ä')\nkeep_streams()\nkeep_streams()\nprint('2 €')\ntell('3\\n')\nsys.stderr.write('4')"
    )
    assert done.stdout == "1 ä\n2 €\n3\n4"


def test_what_stands_in_for_a_stream_is_left_alone() -> None:
    code = "import io\nsys.stdout = kept = io.StringIO()\nkeep_streams()\nassert sys.stdout is kept"
    assert shell("", code).returncode == 0

"""What entry points print: nothing that a terminal would obey."""

from __future__ import annotations

import io
import logging
import warnings

import pytest

from sparsepo_dist.commands.entry import guarded, say
from sparsepo_dist.errors import RunError, UserError

ESCAPE, SHOWN = "\x1b[31mred", r"\x1b[31mred"


@pytest.mark.parametrize(("kind", "code"), [(UserError, 2), (RunError, 1)])
def test_errors(capsys: pytest.CaptureFixture[str], kind: type[Exception], code: int) -> None:
    def fails() -> None:
        raise kind(f"{ESCAPE}\nand a second line")

    assert guarded(fails) == code
    assert capsys.readouterr().err.lstrip() == f"error: {SHOWN}\nand a second line\n"


def test_logs_and_results(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a process of its own

    def speaks() -> None:
        logging.getLogger("sparsepo_dist").warning("a row said %s", ESCAPE)
        say(f"done: {ESCAPE}")

    assert guarded(speaks) == 0
    said = capsys.readouterr()
    assert said.err == f"WARNING sparsepo_dist: a row said {SHOWN}\n" and said.out == f"done: {SHOWN}\n"


def test_an_error_that_nobody_expected(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise ValueError(ESCAPE)

    assert guarded(fails) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):\n") and said.endswith(f"ValueError: {SHOWN}\n")


def test_what_libraries_pass_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their loggers have handlers and formats of their own, as transformers' have; warnings need no logger."""
    written = io.StringIO()
    library = logging.getLogger("a_library")
    monkeypatch.setattr(library, "propagate", False)
    monkeypatch.setattr(library, "handlers", [logging.StreamHandler(written)])

    def speaks() -> None:
        library.warning("a model said %s", ESCAPE)
        try:
            raise ValueError(ESCAPE)
        except ValueError:
            library.exception("this went wrong")
        written.write(warnings.formatwarning(ESCAPE, UserWarning, "file.py", 1))

    assert guarded(speaks) == 0
    said = written.getvalue()
    assert said.startswith(f"a model said {SHOWN}\nthis went wrong\nTraceback (most recent call last):\n")
    assert f"\nValueError: {SHOWN}\n" in said and said.endswith(f"UserWarning: {SHOWN}\n")

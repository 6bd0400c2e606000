"""What entry points print: nothing that a terminal would obey."""

from __future__ import annotations

import logging

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

"""Logs of jobs are lines, whatever bars draw."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsepo_dist.queueing.logs import LineLog


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ([b"one\ntwo"], b"one\ntwo\n"),
        ([b"\r  0%", b"\r 50%\r", b"100%", b"\nend\n"], b"100%\nend\n"),
        ([b"\r  0%|", b" |\r 50%", b"\r         \r"], b" 50%\n"),
        ([b"\xff\x00\n", b"\n"], b"\xff\x00\n\n"),
    ],
)
def test_of_a_bar_the_last_state_stays(said: list[bytes], kept: bytes, tmp_path: Path) -> None:
    source, sink = os.pipe()
    with (tmp_path / "log").open("wb", buffering=0) as log:
        lines = LineLog(os.fdopen(source, "rb", buffering=0), log)
        for part in said:
            os.write(sink, part)
        os.close(sink)
        lines.finish()
    assert (tmp_path / "log").read_bytes() == kept


def test_a_long_bar_tells_how_far_it_is(tmp_path: Path) -> None:
    source, sink = os.pipe()
    with (tmp_path / "log").open("wb", buffering=0) as log:
        lines = LineLog(os.fdopen(source, "rb", buffering=0), log, between=0)
        os.write(sink, b"\r 10%\r 20%")
        os.close(sink)
        lines.finish()
    assert (tmp_path / "log").read_bytes() == b" 10%\n 20%\n"

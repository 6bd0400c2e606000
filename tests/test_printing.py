"""What entry points print, and the modes of the files that are written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsepo_dist.disk import follow_umask
from sparsepo_dist.errors import printable, shortened, unreadable
from sparsepo_dist.files import path_argument


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_tensors_are_readable_as_other_files_are(tmp_path: Path, umask: int) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        save_file({"x": torch.ones(2)}, file)
    follow_umask(files)
    (tmp_path / "other").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask} and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with\ttab\nand line", "plain, with\ttab\nand line"),
        ("caf\xe9 \u65e5\u672c \U0001f600", "caf\xe9 \u65e5\u672c \U0001f600"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J\x07\r\x00\x7f", r"\x9b2J\x07\r\x00\x7f"),
        ("a\u202eb\u2028c", r"a\u202eb\u2028c"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_spelt_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shortened(text)) == shortened(text)


def test_an_empty_path_is_not_the_current_folder() -> None:
    assert path_argument("runs/a") == Path("runs/a")
    with pytest.raises(Exception, match="it is empty"):
        path_argument("")


def test_reasons_are_one_line() -> None:
    assert unreadable(OSError("a\nb")) == "a b" and unreadable(KeyError()) == "KeyError"

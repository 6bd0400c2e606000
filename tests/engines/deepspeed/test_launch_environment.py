"""What a launcher says of a rank is held against what can be, before torch waits for it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sparsepo_dist.commands.entry import guarded, say
from sparsepo_dist.engines.deepspeed import environment
from sparsepo_dist.engines.deepspeed.environment import prepare_environment
from sparsepo_dist.errors import UserError

SOUND = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*SOUND, "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in SOUND.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(environment, "RESOLVE_SECONDS", 0)


def test_a_sound_launch_is_left_alone() -> None:
    prepare_environment()
    assert {name: os.environ[name] for name in SOUND} == SOUND


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RANK", "x", "RANK is 'x' in the environment; a whole number from 0 on"),
        ("RANK", "-1", "RANK is '-1'"),
        ("RANK", "2", "RANK is 2, but WORLD_SIZE is 2: ranks are counted from 0"),
        ("RANK", None, "WORLD_SIZE is 2, but RANK is not set"),
        ("WORLD_SIZE", "two", "WORLD_SIZE is 'two'"),
        ("WORLD_SIZE", "0", "WORLD_SIZE is '0'"),
        ("WORLD_SIZE", None, "RANK is set without WORLD_SIZE; a launcher sets all"),
        ("LOCAL_RANK", "\x1b[31m", r"LOCAL_RANK is '\x1b[31m'"),
        ("LOCAL_WORLD_SIZE", "all", "LOCAL_WORLD_SIZE is 'all'"),
        ("MASTER_PORT", "abc", "MASTER_PORT is 'abc'"),
        ("MASTER_PORT", "70000", "MASTER_PORT is 70000; a port from 1 to 65535"),
        ("MASTER_PORT", None, "RANK is set without MASTER_PORT; a launcher sets all"),
        ("MASTER_ADDR", None, "RANK is set without MASTER_ADDR; a launcher sets all"),
        ("MASTER_ADDR", "nowhere.invalid", "MASTER_ADDR is 'nowhere.invalid', which"),
        ("MASTER_ADDR", "a" * 300, "MASTER_ADDR is 'aaa"),
        ("TORCH_EXTENSIONS_DIR", __file__, "TORCH_EXTENSIONS_DIR: " + __file__ + " cannot be written"),
        ("TORCH_EXTENSIONS_DIR", "/dev/null/x", "TORCH_EXTENSIONS_DIR: /dev/null/x cannot be written"),
    ],
)
def test_what_cannot_be_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str | None, words: str
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    assert guarded(prepare_environment) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("error: ") == 1 and "\x1b" not in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_extensions_folder_that_is_read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="TORCH_EXTENSIONS_DIR: .* no permission"):
        prepare_environment()


def test_a_name_that_is_announced_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def lookup(host: str, port: None) -> list[object]:
        asked.append(host)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return []

    monkeypatch.setattr(environment, "RESOLVE_SECONDS", 30)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(environment.time, "sleep", lambda _: None)
    monkeypatch.setenv("MASTER_ADDR", "node-0")
    prepare_environment()
    assert asked == ["node-0"] * 3


def test_commands_that_need_no_ranks_say_it_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "x")
    assert guarded(say, "done") == 2
    assert "error: RANK is 'x'" in capsys.readouterr().err

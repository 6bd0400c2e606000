"""A rank that is killed while it loads an operator must not make every later start wait for its lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsepo_dist.engines.deepspeed.environment import prepare_environment


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)
    folder = tmp_path / "operator"
    folder.mkdir()
    (folder / "operator.so").touch()
    (folder / "lock").touch()
    return folder / "lock"


def test_a_lock_that_nobody_holds_is_removed(lock: Path) -> None:
    prepare_environment()
    assert not lock.exists()


def test_a_lock_that_a_living_process_holds_stays(lock: Path) -> None:
    with lock.open():
        prepare_environment()
        assert lock.exists()


def test_a_lock_beside_an_operator_that_is_being_built_stays_until_it_is_old(lock: Path) -> None:
    lock.with_name("operator.so").unlink()
    prepare_environment()
    assert lock.exists()
    os.utime(lock, (0, 0))
    prepare_environment()
    assert not lock.exists()

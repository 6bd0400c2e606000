"""Folders that are removed and put in place: what links lead to stays, and a kill never leaves a part."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

import pytest

from sparsepo_dist.disk import put_in_place, remove


class Killed(BaseException):
    """Nothing after it runs."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("final", ".writing-final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text(name)
    return tmp_path


@pytest.mark.parametrize("rename", [0, 1])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_around_a_rename(folder: Path, rename: int, after: bool) -> None:
    place, original, seen = folder / "final", Path.rename, []

    def wrapped(self: Path, target: Path) -> Path:
        seen.append(self.name)
        if len(seen) - 1 == rename and not after:
            raise Killed
        original(self, target)
        if len(seen) - 1 == rename:
            raise Killed
        return target

    with patch.object(Path, "rename", wrapped), pytest.raises(Killed):
        put_in_place(folder / ".writing-final", place)
    there = (place / "model").read_text() if place.exists() else None
    assert there == {(0, False): "final", (0, True): None, (1, False): None, (1, True): ".writing-final"}[rename, after]
    remove(folder / ".writing-final")
    (folder / ".writing-final").mkdir()
    (folder / ".writing-final" / "model").write_text("again")
    put_in_place(folder / ".writing-final", place)
    assert (place / "model").read_text() == "again"
    assert [path.name for path in folder.iterdir()] == ["final"]


def test_what_is_put_in_place_survives_a_power_cut(folder: Path) -> None:
    """Every file and folder is on the disk before the rename, the rename before the old one goes."""
    (folder / ".writing-final" / "below").mkdir()
    (folder / ".writing-final" / "below" / "tokenizer").write_text("words")
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"{self.name} is {target.name}")
        return rename(self, target)

    with patch.object(os, "fsync", synced), patch.object(Path, "rename", renamed):
        put_in_place(folder / ".writing-final", folder / "final")
    assert sorted(done[:4]) == [".writing-final", "below", "model", "tokenizer"]
    assert done[4:] == ["final is .old-final", ".writing-final is final", folder.name]


def test_what_a_link_leads_to_stays(folder: Path) -> None:
    outside = folder / "outside"
    (folder / "final").rename(outside)
    (folder / "final").symlink_to(outside)
    put_in_place(folder / ".writing-final", folder / "final")
    assert (folder / "final" / "model").read_text() == ".writing-final"
    (folder / "final" / "link").symlink_to(outside)
    (folder / "dangling").symlink_to(folder / "nowhere")
    for name in ("final", "dangling", "nowhere"):
        remove(folder / name)
    assert [path.name for path in folder.iterdir()] == ["outside"]
    assert (outside / "model").read_text() == "final"

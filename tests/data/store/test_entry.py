"""Folders of token ids: damaged ones, ones that cannot be written, and processes that want the same at once."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store import entry as entries
from sparsepo_dist.data.store import load
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.data.store.pairs import TokenizedPairs
from sparsepo_dist.data.store.writer import ColumnsWriter
from sparsepo_dist.errors import RankError, UserError
from tests.data.store.sources import good, templated, write

ROWS = 6
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write(tmp_path / "rows.jsonl", [good(number) for number in range(ROWS)])


def read(source: str, cache: Path | None = None) -> TokenizedPairs:
    folder = cache or Path(source).parent / "cache"
    return load_tokenized(source, templated(), DataConfig(workers=1, cache=str(folder)))


def entry_of(source: str) -> Path:
    (entry,) = (path for path in (Path(source).parent / "cache").iterdir() if path.is_dir())
    return entry


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


NAMES = ("tokens", "sequences", "spans", "rows", "pairs", "files")
DAMAGE: dict[str, Callable[[Path], object]] = {
    **{f"{name} cut": lambda e, n=name: os.truncate(e / f"{n}.arrow", 100) for name in NAMES},
    **{f"{name} gone": lambda e, n=name: (e / f"{n}.arrow").unlink() for name in NAMES},
    **{f"{name}, a bit of its header": lambda e, n=name: flip(e / f"{n}.arrow", 9) for name in NAMES},
    **{f"{name}, a bit of its data": lambda e, n=name: flip(e / f"{n}.arrow", -300) for name in NAMES},
    "empty": lambda e: [path.unlink() for path in e.iterdir()],
    "no manifest": lambda e: (e / "store.json").unlink(),
    "a manifest of nothing": lambda e: (e / "store.json").write_text("[]"),
    "a manifest cut": lambda e: os.truncate(e / "store.json", 50),
    "a bit of the manifest": lambda e: (e / "store.json").write_text(
        (e / "store.json").read_text().replace(f'"rows": {ROWS}', f'"rows": {ROWS + 1}')
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_said_and_made_anew(source: str, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    want = list(read(source))
    DAMAGE[damage](entry_of(source))
    assert list(read(source)) == want
    assert "are damaged (" in caplog.text and "; they are made anew" in caplog.text
    caplog.clear()
    assert list(read(source)) == want and "damaged" not in caplog.text


def test_a_folder_of_another_source_is_not_taken(source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    want, mine = list(read(source)), entry_of(source)
    read(write(tmp_path / "other.jsonl", [good(9)]))
    other = next(path for path in mine.parent.iterdir() if path.is_dir() and path != mine)
    mine.rename(tmp_path / "aside")
    other.rename(mine)
    assert list(read(source)) == want and "it was made for something else" in caplog.text


def test_token_ids_that_change_later_are_noticed_when_they_are_read(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_EDGE", 16)
    read(source)
    tokens = entry_of(source) / "tokens.arrow"
    place = tokens.read_bytes().index(list(read(source))[2].chosen_ids[1].to_bytes(4, "little"), 300)
    flip(tokens, place)
    with pytest.raises(RankError, match=r"data.cache: .* has changed since it was written \(.*, row \d+\)"):
        list(read(source))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_cache_that_is_read_only_is_read_and_otherwise_said(
    source: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    want, opened = list(read(source)), Path.open

    def refused(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "w" in mode:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    assert list(read(source)) == want
    os.utime(source)
    with pytest.raises(UserError, match=r"data.cache: .*; or name another folder with --data.cache") as error:
        read(source)
    assert os.strerror(number) in str(error.value)


def test_a_full_disk_is_said_and_nothing_is_left(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: ColumnsWriter) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ColumnsWriter, "finish", full)
    with pytest.raises(UserError, match=r"data.cache: .*No space left on device .*: make room; or name another folder"):
        read(source)
    assert all(path.suffix == ".lock" for path in (Path(source).parent / "cache").iterdir())


def test_a_killed_writer_leaves_no_half_cache(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "put_in_place", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    writer = FORK.Process(target=read, args=[source])
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    monkeypatch.undo()
    folder = Path(source).parent / "cache"
    assert [path.name.startswith(".") for path in folder.iterdir()] == [True, True]
    assert len(read(source)) == ROWS
    assert not [path for path in folder.iterdir() if path.name.endswith(".writing")]


def test_a_source_that_changes_while_it_is_read_is_said(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build = load.build

    def meddled(*arguments: Any, **options: Any) -> Any:
        Path(source).write_text(Path(source).read_text() + json.dumps(good(9)) + "\n")
        return build(*arguments, **options)

    monkeypatch.setattr(load, "build", meddled)
    with pytest.raises(UserError, match=r"rows.jsonl: it has changed while it was read; start again"):
        read(source)


@pytest.mark.parametrize("bad", [False, True])
def test_two_at_once_share_one_reading(source: str, monkeypatch: pytest.MonkeyPatch, bad: bool) -> None:
    """The second waits for the lock before the first goes on, and hears what became of it."""
    if bad:
        write(Path(source), [good(0), "{"])
    begun, waits, told = FORK.Event(), FORK.Event(), FORK.SimpleQueue()
    build = load.build

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert waits.wait(60)
        told.put("built")
        return build(*arguments, **options)

    monkeypatch.setattr(load, "build", slow)
    monkeypatch.setattr(entries.log, "info", lambda *_: waits.set())

    def rank(*, progress: bool) -> None:
        config = DataConfig(workers=1, cache=str(Path(source).parent / "cache"))
        try:
            told.put(load_tokenized(source, templated(), config, progress=progress).fingerprint())
        except UserError as error:
            told.put(str(error))

    first = FORK.Process(target=rank, kwargs={"progress": False})
    first.start()
    assert begun.wait(60)
    second = FORK.Process(target=rank, kwargs={"progress": True})
    second.start()
    heard = [told.get() for _ in range(3)]
    for process in (first, second):
        process.join()
    assert heard.count("built") == 1 and len(set(heard)) == 2
    assert not bad or any("rows.jsonl, row 2: not a JSON object" in text for text in heard)

"""Folders of token ids: made by one process, while others of the machine wait for it, and checked before they are used.

    FOLDER/KEY/store.json     the key, what is known of the whole, sizes and checksums of the files; it comes last
    FOLDER/KEY/*.arrow        the columns
    FOLDER/.KEY.lock          held by who makes them
    FOLDER/.KEY.writing/      what is not finished
    FOLDER/.KEY.refused       why the last one who tried gave up, for those who waited for it

Files are held against their checksums when they are opened, but for the token ids, of which that is done where they
begin and end: each pair is held against its key when it is read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.data.store.build import Built
from sparsepo_dist.data.store.columns import FILES, SCHEMAS, TOKENS, Columns
from sparsepo_dist.data.store.key import key_name
from sparsepo_dist.disk import put_in_place, remove, unwritten
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import read_json

log = logging.getLogger(__name__)

MANIFEST = "store.json"
_EDGE = 1 << 16
_BLOCK = 1 << 22
Key = dict[str, Any]


class Store(NamedTuple):
    """Token ids of a source, finished."""

    columns: Columns
    remarks: list[str]
    """What the user must know of its rows."""
    dropped: list[tuple[str, int, str, str]]
    """As in `Built`."""
    read: int
    """Rows, bad ones too."""


def made_once(folder: Path, key: Key, build: Callable[[Path], Built], source: str, *, tell: bool) -> Store:
    """What was made for a key, or is made now, by `build` in a new folder.

    Args:
        source: for messages.
        tell: whether it is said that this process waits.

    Raises:
        UserError: as `build`, here or in the process that this one waited for; or the folder cannot be written.
        RunError: as `build`.
    """
    entry = folder / key_name(key)
    with contextlib.suppress(DamagedError):  # said by who makes it anew
        if entry.is_dir():
            return open_store(entry, key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _beside(entry, "lock").open("w") as lock:
            return _locked(entry, key, build, lock.fileno(), source, tell=tell)
    except OSError as error:
        raise UserError(
            f"data.cache: {unwritten(error, folder)}; or name another folder with --data.cache"
        ) from None  # fmt: skip


def open_store(entry: Path, key: Key) -> Store:
    """What is in a folder.

    Raises:
        DamagedError: it is not what was written for the key.
    """
    try:
        manifest = read_json(entry / MANIFEST)
        told, digest = manifest["store"], manifest["sha256"]
        if _digest(told) != digest:
            raise ValueError(f"{MANIFEST} has changed")
        if told["key"] != key:
            raise ValueError("it was made for something else")
        if set(told["files"]) != set(_NAMES):
            raise ValueError("it has other files")
        for name, expected in told["files"].items():
            found = _checked(entry / name)
            if found != expected:
                raise ValueError(f"{name} has changed: {_difference(found, expected)}")
        columns = Columns.mapped(entry, told["highest"], told["fingerprint"])
        return Store(columns, told["remarks"], [tuple(reason) for reason in told["dropped"]], told["read"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # Arrow's own are OSError and ValueError
        raise DamagedError(shortened(str(error), 200)) from None


class DamagedError(Exception):
    """What is wrong with a folder of token ids; it is made anew."""


_NAMES = [f"{name}.arrow" for name in (*SCHEMAS, FILES)]


def _locked(
    entry: Path, key: Key, build: Callable[[Path], Built], lock: int, source: str, *, tell: bool
) -> Store:  # fmt: skip
    refused = _beside(entry, "refused")
    before = _stamp(refused)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if tell:
            log.info("%s: waiting for another process of this machine, which reads it", source)
        fcntl.flock(lock, fcntl.LOCK_EX)
    if entry.exists():
        try:
            return open_store(entry, key)
        except DamagedError as damage:
            log.warning("%s: the token ids in %s are damaged (%s); they are made anew", source, entry, damage)
    if _stamp(refused) != before:
        raise UserError(refused.read_text(encoding="utf-8"))
    unfinished = _beside(entry, "writing")
    remove(unfinished)
    unfinished.mkdir()
    try:
        _write(unfinished, key, build(unfinished))
        put_in_place(unfinished, entry)
    except UserError as error:
        with contextlib.suppress(OSError):  # those who wait find out for themselves
            refused.write_text(str(error), encoding="utf-8")
        raise
    finally:
        remove(unfinished)
    refused.unlink(missing_ok=True)
    try:
        return open_store(entry, key)
    except DamagedError as damage:
        raise UserError(
            f"data.cache: {entry} was written, and is damaged ({damage}); name a folder on another disk with "
            "--data.cache"
        ) from None


def _write(folder: Path, key: Key, built: Built) -> None:
    """The manifest, without which a folder is not finished."""
    told = {
        "key": key, **built._asdict(), "files": {name: _checked(folder / name) for name in _NAMES},
    }  # fmt: skip
    text = json.dumps({"store": told, "sha256": _digest(told)}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _checked(path: Path) -> dict[str, int]:
    """Size and CRC-32 of a file: of all of it, or of both ends of the token ids, which may be many gigabytes."""
    size, checksum = path.stat().st_size, 0
    with path.open("rb") as file:
        if path.stem == TOKENS and size > 2 * _EDGE:
            checksum = zlib.crc32(file.read(_EDGE))
            file.seek(-_EDGE, os.SEEK_END)
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return {"bytes": size, "crc32": checksum}


def _difference(found: dict[str, int], expected: dict[str, int]) -> str:
    if found["bytes"] != expected["bytes"]:
        return f"{found['bytes']} bytes instead of {expected['bytes']}"
    return "other bytes"


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _beside(entry: Path, kind: str) -> Path:
    return entry.with_name(f".{entry.name}.{kind}")


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns

"""Files and folders on a disk: whether they can be written, made durable, put in place, and what went wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from sparsepo_dist.errors import shortened

_BLOCK = 1 << 22
_SAMPLES, _SAMPLE_BYTES = 256, 4096
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unwritable(folder: Path) -> str | None:
    """Why a folder cannot be made or written to; None where it can."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except (OSError, ValueError) as error:
        return shortened(str(error))
    if not there.is_dir():
        return f"{there} is not a folder"
    return None if os.access(there, os.W_OK | os.X_OK) else f"no permission to write in {there}"


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a symbolic link but not what it leads to; nothing if it is not
    there. Raises OSError where it cannot be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)  # removes links in it as links
    else:
        path.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file under its name only once all of it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".writing-{os.getpid()}-{path.name}")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def put_in_place(finished: Path, place: Path) -> None:
    """Rename a finished folder to its place, and remove what was there. A process that is killed meanwhile, and a
    machine that loses its power, leaves the old one, none or the new one there, never a part. Raises OSError where that
    cannot be."""
    for path in finished.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(finished)
    old = place.with_name(f".old-{place.name}")
    remove(old)
    if os.path.lexists(place):
        place.rename(old)
    finished.rename(place)
    sync(place.parent)
    remove(old)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable. Raises OSError where it cannot be."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_new(path: Path) -> IO[bytes]:
    """A new file where an old one was, or a symbolic link, which is not followed. Raises OSError where that cannot
    be."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk that a folder is on, or will be. Raises OSError where it cannot be asked."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def in_gib(size: float) -> str:
    """A number of bytes as people read it."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


def unwritten(error: Exception, folder: Path) -> str:
    """`FOLDER: why it could not be written, and what to do`, from what a writer raised: OSError, or what libraries make
    of one."""
    reason = str(error).splitlines()[0] if str(error) else repr(error)
    if not folder.is_dir():
        return f"{folder}: {reason}: it is not there on {socket.gethostname()}; name a folder that all machines share"
    told = re.search(r"os error (\d+)", reason)
    number = int(told[1]) if told else getattr(error, "errno", None)
    # torch's writer does not say why.
    remedy = ": make room" if number is None or number in _FULL else ""
    return f"{folder}: {reason} ({in_gib(free_bytes(folder))} free there){remedy}"


def follow_umask(files: Iterable[Path]) -> None:
    """Give files the mode of any other new file in their folder. safetensors writes through a temporary file, which is
    made for its owner alone. Raises OSError where that cannot be."""
    modes: dict[Path, int] = {}
    for file in files:
        if file.parent not in modes:
            modes[file.parent] = _mode_of_new(file.parent)
        file.chmod(modes[file.parent])


def _mode_of_new(folder: Path) -> int:
    # By trying: to ask for the umask is to set it, for other threads too; and folders may have rules of their own.
    probe = folder / f".mode-{uuid.uuid4().hex}"
    probe.touch(exist_ok=False)
    try:
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 digest of a file. Raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def add_samples(digest: hashlib._Hash, file: Path) -> None:
    """Add a file's content to a digest: all of 1 MiB, of more the beginning, which holds names and shapes, the end, and
    blocks in even steps between them. Raises OSError where it cannot be read."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(handle.read())
            return
        for number in range(_SAMPLES):
            handle.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            digest.update(handle.read(_SAMPLE_BYTES))


def cache_folder() -> Path:
    """$SPARSEPO_CACHE, or ~/.cache/sparsepo_dist: what is made once and kept."""
    return Path(os.environ.get("SPARSEPO_CACHE") or Path.home() / ".cache" / "sparsepo_dist")

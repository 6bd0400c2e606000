"""Texts, JSON and YAML, where a key that stands twice is an error, and folders to write to."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml

from sparsepo_dist.errors import UserError, shortened

_BLOCK = 1 << 22
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MERGE = "tag:yaml.org,2002:merge"


def read_text(file: Path, name: str, remedy: str = "") -> str:
    """The text of a file that a person wrote: UTF-8, with a byte order mark or without.

    Args:
        file: where it is.
        name: what messages call it.
        remedy: what the message ends with where it cannot be read.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}{remedy}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 (byte {error.start}); convert the file to UTF-8") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, is nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: as `parse_json`, or it is not UTF-8.
    """
    return parse_json(file.read_text(encoding="utf-8"))


class Entry(NamedTuple):
    """A key of a YAML mapping and where it stands."""

    name: str
    node: yaml.Node
    line: int


def parse_yaml(text: str) -> yaml.Node | None:
    """The root node of a YAML text, None where it is empty.

    Raises:
        ValueError: it is not YAML.
    """
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ValueError(f"{where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(shortened(str(error), 200)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def entries(mapping: yaml.MappingNode) -> Iterator[Entry]:
    """The entries of a YAML mapping.

    Raises:
        ValueError: a key is no plain name, is YAML's merge key, or stands twice.
    """
    seen: dict[str, int] = {}
    for key, node in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {line}: a name was expected before the colon")
        if key.tag == _MERGE:
            raise ValueError(f"line {line}: `<<`, YAML's merge key, is not followed; write its fields out")
        if key.value in seen:
            raise ValueError(f"line {line}: {shortened(key.value)} stands there twice (also in line {seen[key.value]})")
        seen[key.value] = line
        yield Entry(key.value, node, line)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested mappings; an empty mapping is a value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


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


def put_in_place(finished: Path, place: Path) -> None:
    """Rename a finished folder to its place, and remove what was there. A process that is killed meanwhile, and a
    machine that loses its power, leaves the old one, none or the new one there, never a part. Raises OSError where that
    cannot be."""
    for path in finished.rglob("*"):
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shortened(twice)!r} stands twice in one object")
    return found


def at_home(text: str) -> str:
    """A path whose leading `~` or `~user`, which shells leave alone within an option and in files, is that folder."""
    return os.path.expanduser(text)  # noqa: PTH111  (pathlib would also rewrite what is no path, such as hub ids)


def argument(text: str) -> str:
    """A value of a command line, for argparse; `~` is expanded. Raises ArgumentTypeError where it is empty: that names
    nothing."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give it a value, or leave it out")
    return at_home(text)


def path_argument(text: str) -> Path:
    """As `argument`, of a path: an empty one would be the current folder."""
    return Path(argument(text))


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

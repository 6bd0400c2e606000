"""Hashes of files and folders by content, remembered as long as size and time of a file are the same."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

from sparsepo_dist.disk import sha256, write_whole
from sparsepo_dist.experiments.stages.code import PACKAGE
from sparsepo_dist.files import read_json

_SHIPPED = (PACKAGE / "builtin" / "shipped", PACKAGE / "data" / "tokens" / "templates")


class Contents:
    """Contents of local files that configurations name.

    Args:
        memory: file of hashes that were computed before.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        try:
            self._known: dict[str, Any] = read_json(memory)
        except (OSError, ValueError):  # never written, or by a process that was killed: all is computed anew
            self._known = {}

    def instead_of_paths(self, value: Any) -> Any:
        """A text that names a file or folder here (also `--option=PATH`, and `PATH:split`) as its hash; `builtin:NAME`
        with the hashes of the data files that the package ships of that name; anything else, and other texts in lists
        and mappings, as it is."""
        if isinstance(value, Mapping):
            return {name: self.instead_of_paths(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.instead_of_paths(inner) for inner in value]
        if not isinstance(value, str):
            return value
        option, equals, rest = value.partition("=") if value.startswith("--") else ("", "", value)
        path, colon, split = rest.rpartition(":")
        shipped = _shipped(rest)
        if shipped:
            return [value, *(self.hash(file) for file in shipped)]
        for text, after in ((rest, ""), (path, colon + split)):
            if _may_be_path(text):
                return f"{option}{equals}content:{self.hash(Path(text))}{after}"
        return value

    def hash(self, path: Path) -> str:
        """SHA-256 of a file, or of the names and hashes of all files in a folder."""
        if path.is_dir():
            lines = [
                f"{file.relative_to(path)} {self.hash(file)}\n" for file in sorted(path.rglob("*")) if file.is_file()
            ]
            return sha256_of("".join(lines).encode()).hexdigest()
        status = path.stat()
        key, mark = str(path.resolve()), [status.st_size, status.st_mtime_ns]
        known = self._known.get(key)
        if known is None or known[:2] != mark:
            known = self._known[key] = [*mark, sha256(path)]
            with contextlib.suppress(OSError):  # only looked at: where nothing can be written, all is computed anew
                write_whole(self._memory, json.dumps(self._known, indent=0) + "\n")
        return str(known[2])


def _shipped(text: str) -> list[Path]:
    """Data files of the package that `builtin:NAME:part` names, `builtin:NAME` with all its parts."""
    prefix, _, name = text.partition(":")
    if prefix != "builtin" or not name:
        return []
    stem = name.replace(":", "-")
    return sorted(
        file
        for folder in _SHIPPED
        for file in folder.iterdir()
        if file.stem == stem or file.stem.startswith(f"{stem}-")
    )  # fmt: skip


def _may_be_path(text: str) -> bool:
    """Names of methods and hub ids are no paths, though a folder here may be called so."""
    if not ("/" in text or Path(text).suffix) or "\0" in text:
        return False
    try:
        return Path(text).exists()
    except OSError:  # longer than paths can be
        return False

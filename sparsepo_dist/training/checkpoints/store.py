"""Checkpoints as folders: written aside, synced, checksummed, renamed; a reader never sees half of one.

A checkpoint is `checkpoints/step-00000123/` with a file COMPLETE; whatever has no such file is none. Nothing here knows
of models or ranks: several processes may write files into one pending folder, one of them publishes it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsepo_dist.disk import remove, sha256, sync
from sparsepo_dist.errors import UserError
from sparsepo_dist.files import read_json

COMPLETE, MANIFEST, STATE = "COMPLETE", "manifest.json", "state.json"
_NAME = re.compile(r"step-(\d{8,})")
_STATE_SHAPE = {"step": int, "config": dict, "data": dict, "zero_stage": int, "world_size": int, "trainer": dict}


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    step: int
    """Optimizer steps done."""

    def state(self) -> dict[str, Any]:
        """What the trainer wrote about it.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not what was written, or of another shape.
        """
        if sha256(self.folder / STATE) != self._entry(self._manifest(), STATE)["sha256"]:
            raise ValueError(f"{STATE} has changed since it was written")
        state = read_json(self.folder / STATE)
        if not isinstance(state, dict):
            raise ValueError(f"{STATE} holds {_kind(state)}, no object")
        for name, kind in _STATE_SHAPE.items():
            if type(state.get(name)) is not kind:
                raise ValueError(f"{STATE} has {_kind(state.get(name))} for {name}")
        return state

    def damage(self, part: int = 0, parts: int = 1) -> str | None:
        """What is wrong with its files, by size and SHA-256; None if nothing is.

        Looks at every `parts`-th file from `part` on, so that ranks can share the reading.
        """
        try:
            manifest = self._manifest()
            names = list(manifest)[part::parts]
            for name in names:
                entry, file = self._entry(manifest, name), self.folder / name
                if not file.resolve().is_relative_to(self.folder.resolve()):
                    return f"{name} lies outside the checkpoint"
                if not file.is_file():
                    return f"{name} is missing"
                if file.stat().st_size != entry["bytes"]:
                    return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
                if sha256(file) != entry["sha256"]:
                    return f"{name} has changed since it was written"
            marker = (self.folder / COMPLETE).read_text(encoding="utf-8").strip()
            if marker != sha256(self.folder / MANIFEST):
                return f"{MANIFEST} has changed since it was written"
        except (OSError, ValueError) as error:
            return f"{MANIFEST} cannot be read ({error})"
        if STATE not in names and (part or STATE in manifest):
            return None  # it is another part's
        try:
            self.state()
        except (OSError, ValueError) as error:
            return f"{STATE} cannot be read ({error})"
        return None

    def _manifest(self) -> dict[str, Any]:
        manifest = read_json(self.folder / MANIFEST)
        if not isinstance(manifest, dict):
            raise ValueError(f"{MANIFEST} holds {_kind(manifest)}, no object")
        return manifest

    @staticmethod
    def _entry(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        entry = manifest.get(name)
        if not isinstance(entry, dict) or not entry.keys() >= {"bytes", "sha256"}:
            raise ValueError(f"{MANIFEST} has no size and checksum of {name}")
        return entry


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pending(self, step: int) -> Path:
        """Where the files of a checkpoint go until it is published."""
        return self.folder / f".writing-{step_name(step)}"

    def begin(self, step: int) -> Path:
        """An empty pending folder; what an interrupted writer left is removed. One process calls this."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".writing-*"):
            remove(leftover)
        pending = self.pending(step)
        pending.mkdir()
        return pending

    def digest(self, step: int, files: Iterable[Path], part: int) -> None:
        """Sync some files of a pending folder to the disk, and leave their bytes and SHA-256 there as a part."""
        pending, entries = self.pending(step), {}
        for file in files:
            sync(file)
            entries[file.relative_to(pending).as_posix()] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        unfinished = pending / f"{_part(part)}.writing"
        unfinished.write_text(json.dumps(entries), encoding="utf-8")
        unfinished.rename(pending / _part(part))

    def digested(self, step: int, parts: int) -> bool:
        """Whether all parts are there."""
        return all((self.pending(step) / _part(part)).is_file() for part in range(parts))

    def publish(self, step: int, parts: int) -> Checkpoint:
        """Make the pending folder, digested in so many parts, a checkpoint. One process calls this.

        A checkpoint of the same step gives way to it.
        """
        pending, final = self.pending(step), self.folder / step_name(step)
        digests: dict[str, Any] = {}
        for part in range(parts):
            digests |= read_json(pending / _part(part))
            (pending / _part(part)).unlink()
        _write_synced(pending / MANIFEST, json.dumps(dict(sorted(digests.items())), indent=1))
        _write_synced(pending / COMPLETE, sha256(pending / MANIFEST))
        for folder in (*(path for path in pending.rglob("*") if path.is_dir()), pending):
            sync(folder)
        _discard(final)
        pending.rename(final)
        sync(self.folder)
        return Checkpoint(final, step)

    def complete(self) -> list[Checkpoint]:
        """Complete checkpoints, the newest first."""
        if not self.folder.is_dir():
            return []
        matches = ((path, _NAME.fullmatch(path.name)) for path in self.folder.iterdir())
        found = [Checkpoint(path, int(m[1])) for path, m in matches if m and (path / COMPLETE).is_file()]
        return sorted(found, key=lambda checkpoint: -checkpoint.step)

    def left(self) -> str:
        """A sentence on what a run that ended here can go on from."""
        try:
            newest = self.complete()[:1]
        except OSError as error:
            return f"Its checkpoints cannot be looked at: {error}"
        if not newest:
            return "There is no complete checkpoint: --resume auto starts from the beginning"
        return f"The checkpoint of step {newest[0].step} is complete, go on with --resume auto"

    def retire_after(self, step: int) -> list[Path]:
        """Rename the checkpoints after a step, from which the run goes on: damaged, or of a way not taken.

        They would be newer for ever than what is written now. Nothing removes them but a person.
        """
        return [self.retire(checkpoint.folder) for checkpoint in self.complete() if checkpoint.step > step]

    def retire(self, folder: Path) -> Path:
        """Take a folder out of the way, among the checkpoints; where it is now."""
        number = 0
        while (aside := self.folder / f"retired-{folder.name}-{number}").exists():
            number += 1
        return folder.rename(aside)

    def prune(self, keep_last: int, best: int | None) -> None:
        """Remove all but the newest `keep_last` checkpoints and the one of step `best`."""
        for checkpoint in self.complete()[keep_last:]:
            if checkpoint.step != best:
                _discard(checkpoint.folder)
        for folder in self.folder.iterdir():
            if _NAME.fullmatch(folder.name) and not (folder / COMPLETE).is_file():
                remove(folder)


def open_checkpoint(folder: Path, *, field: str = "resume") -> Checkpoint:
    """The checkpoint in a folder that the user named with `field`; its files are not looked at.

    Raises:
        UserError: it is none.
    """
    match = _NAME.fullmatch(folder.name)
    if match is None or not (folder / COMPLETE).is_file():
        raise UserError(f"{field}: {folder} is no complete checkpoint (step-NNNNNNNN with a file {COMPLETE})")
    return Checkpoint(folder, int(match[1]))


def _discard(folder: Path) -> None:
    """First it stops being a checkpoint, then it goes: an interruption leaves no half one. Links are not followed."""
    if not folder.is_symlink():
        (folder / COMPLETE).unlink(missing_ok=True)
    remove(folder)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _part(number: int) -> str:
    return f"digest-{number:05d}.json"


def step_name(step: int) -> str:
    """Of the folder that is of a step: a checkpoint, or a model on the way."""
    return f"step-{step:08d}"

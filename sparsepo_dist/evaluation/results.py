"""Results on disk: one JSON file a task, written whole or not at all, with all that is needed to make it again."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsepo_dist.disk import unwritable, write_whole
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.files import read_json

_ALWAYS = ("torch", "transformers", "datasets", "sparsepo_dist")


class Results:
    """The results of one model in one suite, a file for each task.

    Args:
        folder: where they are.
        settings: all that decides a number besides the model: seed, limit, number of shots, temperature. A result of
            other settings is never taken for one of these.
        packages: distributions whose versions are recorded besides the usual ones.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, target: Target, settings: Mapping[str, Any], *, packages: Sequence[str] = ()
    ) -> None:
        reason = unwritable(folder)
        if reason is not None:
            raise UserError(f"--output: {folder} cannot be written: {reason}; name another folder")
        self.folder = folder.resolve()
        self._identity = {"model": target.model, "adapter": target.adapter, "sha256": target.sha256}
        self._settings = json.loads(json.dumps(dict(settings)))
        self._packages = tuple(packages)

    def finished(self, task: str) -> Any | None:
        """The result of a task, if it was written before with these settings for this model; None if not.

        Raises:
            UserError: the file holds another model's or other settings' result, or cannot be read.
        """
        path = self.path(task)
        if not path.is_file():
            return None
        record = self._record(path)
        settings = record["settings"]
        if settings != self._settings:
            changed = sorted(k for k in settings.keys() | self._settings if settings.get(k) != self._settings.get(k))
            raise UserError(f"{path} was measured with another {', '.join(changed)}; name another --output")
        return record["result"]

    def kept(self) -> dict[str, dict[str, Any]]:
        """The records of all tasks in the folder, whatever settings they were measured with: `settings`, `result`.

        Raises:
            UserError: a file is another model's, or cannot be read.
        """
        return {path.stem: self._record(path) for path in sorted(self.folder.glob("*.json"))}

    def _record(self, path: Path) -> dict[str, Any]:
        try:
            record: dict[str, Any] = read_json(path)
            there, settings, _ = record["model"], record["settings"], record["result"]
            if not isinstance(there, dict) or not isinstance(settings, dict):
                raise TypeError("model and settings must be objects")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} holds no result ({error}); remove it to measure again") from None
        if there != self._identity:
            raise UserError(f"{path} is of another model ({there.get('model')}, other weights); name another --output")
        return record

    def write(self, task: str, result: Any) -> Path:
        """Keep a task's result beside where it comes from; the file."""
        found = origin(self._packages)
        record = {"task": task, "model": self._identity, "settings": self._settings, "result": result, **found}
        path = self.path(task)
        write_whole(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return path

    def path(self, task: str) -> Path:
        """Where a task's result is, or will be."""
        return self.folder / f"{task}.json"


def origin(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Where what this process writes comes from: command, date, device, versions of the usual packages and of these."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": device_name(),
        "versions": {"python": platform.python_version(), **_versions((*_ALWAYS, *packages))},
    }


def device_name() -> str:
    """What models run on here."""
    import torch  # seconds, which what only writes files does not want to wait

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()})"


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found

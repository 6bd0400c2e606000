"""The runs of a page: what each is called, how far it is, and what of it is still missing."""

from __future__ import annotations

import math
import os.path
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sparsepo_dist.report.reading import RunFiles, read_run


@dataclass(frozen=True)
class ShownRun:
    """One run of the page."""

    name: str
    """No two runs of a page have the same."""
    files: RunFiles
    settings: dict[str, Any]
    """config.yaml as objects; empty where there is none."""
    finished: bool
    """Whether its model is there."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return max((int(row["step"]) for row in self.files.newest.values()), default=0)

    def steps_in_all(self) -> int | None:
        """Optimizer steps that the run will have; None where its files do not say so yet."""
        training = self.settings.get("training", {})
        row, most = self.files.last("train"), training.get("max_steps")
        epoch, epochs = _number(row.get("epoch")), _number(training.get("epochs"))
        if epoch is None or epochs is None or epoch <= 0:
            return most if isinstance(most, int) else None
        # Of an epoch's steps the trainer writes the share that is done.
        steps = math.ceil(epochs * round(row["step"] / epoch))
        return min(steps, most) if isinstance(most, int) else steps

    def state(self) -> str:
        """How far it is, and about how long it will take."""
        if self.finished:
            return f"finished, {self.step:,} steps"
        total, row = self.steps_in_all(), self.files.last("train")
        done = f"step {self.step:,}" + (f" of {total:,}" if total else "")
        if not row:
            return "no step yet"
        seconds = self.files.series("seconds", "train")[1]
        left = (total - self.step) * statistics.median(seconds) if total and seconds else 0
        rest = f", about {duration(left)} left" if left > 0 else ""
        return f"{done}{rest}; last written {_written(self.files.folder / 'metrics.jsonl')}"

    def missing(self) -> list[str]:
        """What this page cannot show of a run that goes on, and when it will be there."""
        if self.finished:
            return []
        if not self.files.newest:
            return ["everything: no step is done yet"]
        lacks = []
        if not self.files.last("eval"):
            held_out = self.settings.get("data", {}).get("heldout")
            lacks.append("held-out numbers: " + ("they come with an evaluation" if held_out else "no held-out data"))
        if not self.files.tokens:
            lacks.append("heat maps of tokens: they come at the end")
        lacks.append("the model and its card: they come at the end")
        if self.files.evaluation is None:
            lacks.append("samples before and after: `sparsepo demo` draws them at the end, other runs have none")
        return lacks


def read_runs(folders: Sequence[Path]) -> list[ShownRun]:
    """Runs under names that tell them apart: their folders', with as many of the folders above as that takes.

    Raises:
        UserError: as `read_run`; a configuration is damaged.
    """
    names = distinct_names(folders)
    shown = []
    for name, folder in zip(names, folders, strict=True):
        files = read_run(folder)
        settings = files.settings() if files.config else {}
        shown.append(ShownRun(name, files, settings, (folder / "final").is_dir()))
    return shown


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that no two folders have in common."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]  # noqa: PTH100  (links keep their names)
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(path[-length:]).lstrip("/") for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path[-1]} ({number})" for number, path in enumerate(parts, start=1)]


def duration(seconds: float) -> str:
    """A time as people read it, in its largest unit but one."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _written(path: Path) -> str:
    return f"{datetime.fromtimestamp(path.stat().st_mtime, timezone.utc):%Y-%m-%d %H:%M} UTC"


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None

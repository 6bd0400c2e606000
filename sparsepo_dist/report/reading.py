"""Read a run's folder."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsepo_dist.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder says; parts that a run has not written are empty."""

    folder: Path
    metrics: list[dict[str, Any]]
    """Rows of metrics.jsonl: step, split ("train" or "eval"), and metrics by name."""
    tokens: list[dict[str, Any]]
    """Rows of tokens.jsonl: one response each."""
    evaluation: dict[str, Any] | None
    """evaluation.json."""
    config: str
    """config.yaml as text."""

    def series(self, name: str, split: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, where it was reported and a number."""
        rows = [(row["step"], row[name]) for row in self.metrics if row["split"] == split and row.get(name) is not None]
        return [step for step, _ in rows], [value for _, value in rows]

    def last(self, split: str) -> dict[str, Any]:
        """The last row of a split; empty where there is none."""
        rows = [row for row in self.metrics if row["split"] == split]
        return rows[-1] if rows else {}


def read_run(folder: Path) -> RunFiles:
    """Everything the report draws.

    Raises:
        UserError: the folder is no run's, or metrics.jsonl or tokens.jsonl is damaged (file and line are named).
    """
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder} is not a run's folder: it has no metrics.jsonl")
    evaluation = folder / "evaluation.json"
    config = folder / "config.yaml"
    return RunFiles(
        folder,
        _rows(folder / "metrics.jsonl", last_may_be_cut=True),
        _rows(folder / "tokens.jsonl") if (folder / "tokens.jsonl").is_file() else [],
        json.loads(evaluation.read_text(encoding="utf-8")) if evaluation.is_file() else None,
        config.read_text(encoding="utf-8") if config.is_file() else "",
    )


def _rows(path: Path, *, last_may_be_cut: bool = False) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if not (last_may_be_cut and number == len(lines)):
                raise UserError(f"{path}, line {number}: not JSON: {error}") from None
            log.warning("%s: the last line is cut off, as a killed run leaves it; it is left out", path)
    return rows

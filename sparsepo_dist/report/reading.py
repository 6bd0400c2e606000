"""Read a run's folder."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import read_json, read_text
from sparsepo_dist.report.curve import Curve
from sparsepo_dist.report.heatmap import ROWS
from sparsepo_dist.report.histogram import Columns
from sparsepo_dist.report.shapes import CONFIG, EVALUATION, HISTOGRAM, METRICS, NUMBER, TOKENS, check

log = logging.getLogger(__name__)

_LONGEST_LINE = 2**26
_LAST_STEP = 2**53


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder says; parts that a run has not written are empty."""

    folder: Path
    curves: Mapping[tuple[str, str], Curve]
    """By metric and split ("train" or "eval"): metrics.jsonl, where a metric was reported and a number."""
    histograms: Mapping[str, Columns]
    """By name: of the training steps' masks."""
    newest: Mapping[str, dict[str, Any]]
    """The last row of each split."""
    tokens: list[dict[str, Any]]
    """Rows of tokens.jsonl: one response each."""
    evaluation: dict[str, Any] | None
    """evaluation.json."""
    config: str
    """config.yaml as text."""

    def series(self, name: str, split: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric: all of a short run, of a long one as many as a figure shows."""
        curve = self.curves.get((name, split))
        return ([], []) if curve is None else curve.series()

    def last(self, split: str) -> dict[str, Any]:
        """The last row of a split; empty where there is none."""
        return self.newest.get(split, {})

    def settings(self) -> dict[str, Any]:
        """config.yaml as objects.

        Raises:
            UserError: it is damaged.
        """
        try:
            settings: dict[str, Any] = yaml.safe_load(self.config)
            check(settings, CONFIG)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            why = shortened(str(error), 200)
            raise UserError(f"{self.folder / 'config.yaml'}: not a run's configuration: {why}") from None
        return settings


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's. One that has just begun has its configuration, and no metrics yet."""
    return any((folder / name).is_file() for name in ("metrics.jsonl", "config.yaml"))


def read_run(folder: Path) -> RunFiles:
    """Everything the report draws. Memory does not grow with the length of the run.

    Raises:
        UserError: the folder is no run's, or one of its files cannot be read or is damaged (file and line are named).
    """
    if not is_run(folder):
        raise UserError(f"{folder} is not a run's folder: it has no metrics.jsonl")
    config, tokens = folder / "config.yaml", folder / "tokens.jsonl"
    curves, histograms, newest = _metrics(folder / "metrics.jsonl")
    return RunFiles(
        folder,
        curves,
        histograms,
        newest,
        [_checked_tokens(tokens, number, row) for number, row in _rows(tokens)] if tokens.is_file() else [],
        _evaluation(folder / "evaluation.json"),
        read_text(config, str(config)) if config.is_file() else "",
    )


def _metrics(path: Path) -> tuple[dict[tuple[str, str], Curve], dict[str, Columns], dict[str, dict[str, Any]]]:
    curves: dict[tuple[str, str], Curve] = {}
    histograms: dict[str, Columns] = {}
    newest: dict[str, dict[str, Any]] = {}
    for number, row in _rows(path, last_may_be_cut=True) if path.is_file() else ():
        try:
            check(row, METRICS)
            step, split = row["step"], row["split"]
            if abs(step) > _LAST_STEP:
                raise ValueError(f"step {shortened(str(float(step)))} is none")
            for name, value in row.items():
                if value is None or name in METRICS:
                    continue
                if name.startswith(HISTOGRAM):
                    check(value, [int], shortened(name))
                    if split == "train":
                        histograms.setdefault(name.removeprefix(HISTOGRAM), Columns()).add(step, value)
                    continue
                if type(value) not in NUMBER:
                    check(value, NUMBER, shortened(name))
                if not math.isfinite(value):
                    continue
                curve = curves.get((name, split))
                if curve is None:
                    curve = curves[name, split] = Curve()
                curve.add(step, float(value))
        except (ValueError, OverflowError) as error:
            raise UserError(f"{path}, line {number}: damaged: {error}") from None
        newest[split] = row
    return curves, histograms, newest


def _checked_tokens(path: Path, number: int, row: Any) -> dict[str, Any]:
    try:
        check(row, TOKENS)
        for name, *_ in ROWS:
            if name in row:
                check(row[name], [NUMBER], name)
                if len(row[name]) != len(row["tokens"]):
                    raise ValueError(f"{name} has {len(row[name])} values for {len(row['tokens'])} tokens")
    except ValueError as error:
        raise UserError(f"{path}, line {number}: damaged: {error}") from None
    return dict(row)


def _evaluation(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = read_json(path)
        check(found, EVALUATION)
        for name, value in found["sparsity"].items():
            check(value, NUMBER, f"sparsity.{name}")
        if len(found["reference"]["examples"]) != len(found["trained"]["examples"]):
            raise ValueError("reference and trained have another number of examples")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    return found


def _rows(path: Path, *, last_may_be_cut: bool = False) -> Iterator[tuple[int, Any]]:
    """Lines and what they hold."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    if not (last_may_be_cut and not file.read(1)):
                        raise UserError(f"{path}, line {number}: not JSON: {shortened(str(error))}") from None
                    log.warning("%s: the last line is cut off, as a killed run leaves it; it is left out", path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None

"""What the runs of an experiment left behind, each file read once. Loads no model."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.contracts import NOTHING_KNOWN, Experiment, KnownFields, TrainedRun
from sparsepo_dist.experiments.drawing.numbers.grouping import BETA, STARTS
from sparsepo_dist.files import read_json
from sparsepo_dist.report.reading import RunFiles, read_run

log = logging.getLogger(__name__)

_OF_NO_WEIGHT = ("seed", "date", "show", "workers", "cache", "hang_minutes", "track")
"""Fields of data and training that two runs may differ in and be compared."""
MASKS = {"reward_mask": "Reward mask", "divergence_mask": "KL mask"}


@dataclass(frozen=True)
class Point:
    """A model's place among rewards and KL, as evaluation/frontier.py measured it."""

    run: TrainedRun
    step: int | None
    """Of the training, where the model is a checkpoint's."""
    kl: float
    """Nats per response."""
    reward: float
    kls: np.ndarray
    """By prompt, [prompts]; empty where the driver's own files are gone."""
    rewards: np.ndarray
    """Likewise."""
    origin: float
    """The reference's reward."""
    scorer: str


class Collected:
    """The runs of an experiment, with what their folders hold.

    What cannot be used is left out and said in `left_out`, by name of the run: one damaged file does not cost the page.

    Args:
        experiment: the runs.
        known: of the fields of their configurations, which may be older than those.
    """

    def __init__(self, experiment: Experiment, known: KnownFields = NOTHING_KNOWN) -> None:
        self.experiment = experiment
        self._used = known.used
        self._defaults: dict[str, dict[str, Any]] = {}
        for name, value in known.defaults.items():
            section, _, field = name.rpartition(".")
            self._defaults.setdefault(section, {})[field] = value
        self.left_out: dict[str, str] = {}
        self._files: dict[str, RunFiles | None] = {}
        self._points: dict[str, list[Point]] = {}

    @cached_property
    def runs(self) -> tuple[TrainedRun, ...]:
        """All that are done, with their beta among their values, be it the grid's or the configuration's own."""
        return tuple(self._with_beta(run) for run in self.experiment.runs)

    @property
    def trained(self) -> tuple[TrainedRun, ...]:
        """`runs` but for what the others start from."""
        return tuple(run for run in self.runs if run.method not in STARTS)

    def _with_beta(self, run: TrainedRun) -> TrainedRun:
        beta = self.settings(run).get("objective", {}).get("beta")
        if run.method in STARTS or BETA in run.values or type(beta) not in (int, float):
            return run
        return replace(run, values={**run.values, BETA: beta})

    def leave_out(self, name: str, why: str) -> None:
        """Say that something of a run is not drawn."""
        if why not in self.left_out.get(name, ""):
            self.left_out[name] = "; ".join(filter(None, [self.left_out.get(name), why]))
            log.warning("%s: %s", name, why)

    def files(self, run: TrainedRun) -> RunFiles | None:
        """What its training wrote; None where nothing of it can be read, and of a start that was not trained."""
        if run.run is None:
            return None
        if run.name not in self._files:
            try:
                self._files[run.name] = read_run(run.run)
            except UserError as error:
                self.leave_out(run.name, str(error))
                self._files[run.name] = None
        return self._files[run.name]

    def settings(self, run: TrainedRun) -> Mapping[str, Any]:
        """The run's resolved configuration; empty where it is not there."""
        files = self.files(run)
        try:
            return files.settings() if files is not None and files.config else {}
        except UserError as error:
            self.leave_out(run.name, str(error))
            return {}

    def alike(self, run: TrainedRun, without: Sequence[str]) -> str | None:
        """What must be the same in two runs for a fair comparison of something else: model, data, objective, masks and
        training as configured, but for beta, the seed, what no number depends on (the day, which stands in few
        templates; fields that the objective does not use) and the fields `without` of masks. None where nothing is
        known.
        """
        config = self.settings(run)
        if not all(config.get(part) for part in ("data", "objective", "training", "masks")):
            return None
        objective = config["objective"]
        used = ("name", *self._used.get(objective.get("name"), objective))
        unused = [name for name in {**self._defaults.get("objective", {}), **objective} if name not in used]
        apart = {"data": _OF_NO_WEIGHT, "objective": ("beta", *unused), "training": _OF_NO_WEIGHT, "masks": without}
        kept = {
            part: {
                name: value
                for name, value in {**self._defaults.get(part, {}), **(config.get(part) or {})}.items()
                if name not in apart.get(part, ())
            }
            for part in ("model", "lora", *apart)
        }
        return json.dumps(kept, sort_keys=True)

    def heldout(self, run: TrainedRun) -> dict[str, Any]:
        """Metrics on the held-out pairs of the model that the run ended with; empty where it has none."""
        files = self.files(run)
        return {} if files is None else files.last("final") or files.last("eval")

    def sparsity(self, run: TrainedRun, mask: str) -> float | None:
        """Share of held-out response tokens that a mask rules out at the end, mean of chosen and rejected."""
        return mean_of(self.heldout(run), [f"sparsity/{mask}/{side}" for side in ("chosen", "rejected")])

    def suites(self, driver: str) -> list[str]:
        """Names of the suites of a driver, in the order in which runs have them."""
        return list(
            dict.fromkeys(
                suite for run in self.runs for suite, name in run.drivers.items()
                if name.removesuffix(".py") == driver and suite in run.results
            )
        )  # fmt: skip

    def result(self, run: TrainedRun, suite: str, file: str) -> dict[str, Any] | None:
        """A driver's own table; None where the run has none."""
        if suite not in run.results:
            return None
        path = run.results[suite] / file
        try:
            found: dict[str, Any] = read_json(path)
            if not found["rows"]:
                raise ValueError("it has no rows")
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.leave_out(run.name, f"{path} cannot be read: {error!r}")
            return None
        return found

    def points(self, suite: str) -> list[Point]:
        """Of all runs; those that were measured otherwise than the first, but for the seed of samples, are left out."""
        if suite not in self._points:
            found: list[Point] = []
            first: tuple[Any, ...] = ()
            for run in self.runs:
                record = self.result(run, suite, "frontier.json")
                if record is None:
                    continue
                try:
                    how = _how(record)
                    first = first or how
                    if how != first:
                        self.leave_out(run.name, f"{suite} was measured otherwise than of the first run: {how}")
                        continue
                    points = _points(run, record, run.results[suite])
                    finite = [p for p in points if math.isfinite(p.kl + p.reward + p.origin)]
                    if len(finite) < len(points):
                        self.leave_out(run.name, f"{suite}: a KL or a reward is no number")
                    found += finite
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    self.leave_out(run.name, f"{run.results[suite] / 'frontier.json'} is damaged: {error!r}")
            self._points[suite] = found
        return self._points[suite]

    def final_points(self, suite: str) -> dict[str, Point]:
        """By name of the run: of the model that it ended with."""
        ends: dict[str, Point] = {}
        for point in self.points(suite):
            there = ends.get(point.run.name)
            if there is None or _late(point) > _late(there):
                ends[point.run.name] = point
        return ends


def mean_of(row: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """The mean of metrics that are there as finite numbers."""
    values = [value for name in names if isinstance(value := row.get(name), int | float) and math.isfinite(value)]
    return float(np.mean(values)) if values else None


def _late(point: Point) -> float:
    return float("inf") if point.step is None else point.step


def _how(record: Mapping[str, Any]) -> tuple[Any, ...]:
    settings = {name: value for name, value in record["settings"].items() if name not in ("seed", "batch_size")}
    return record["scorer"], settings, record["reference"]["path"]


def _points(run: TrainedRun, record: Mapping[str, Any], folder: Path) -> list[Point]:
    kept, samples = _kept(folder), int(record["settings"]["samples"])
    return [
        Point(
            run, row["step"], float(row["kl"]), float(row["reward"]),
            _by_prompt(kept, row["path"], "kl-", row["kl"], samples),
            _by_prompt(kept, row["path"], "reward-", row["reward"], samples),
            float(record["reference"]["reward"]), record["scorer"],
        )
        for row in record["rows"]
    ]  # fmt: skip


def _kept(folder: Path) -> list[dict[str, Any]]:
    """Numbers by response that the driver keeps beside its table."""
    found = []
    for pattern in ("kl-*.json", "reward-*.json"):
        for path in sorted((folder / "models").glob(f"*/{pattern}")):
            try:
                found.append(read_json(path))
            except (OSError, ValueError) as error:
                log.warning("%s cannot be read, there is no interval over prompts: %s", path, error)
    return found


def _by_prompt(kept: Sequence[dict[str, Any]], path: str, task: str, mean: float, samples: int) -> np.ndarray:
    """Means over each prompt's samples, [prompts], of the measurement whose mean the table has; empty without one."""
    for record in kept:
        model = record["model"]
        if record["task"].startswith(task) and path == (model["adapter"] or model["model"]):
            values = np.reshape(np.asarray(record["result"], dtype=float), (-1, samples)).mean(1)
            if np.isclose(values.mean(), mean, rtol=1e-9, atol=1e-9):
                return values
    return np.empty(0)

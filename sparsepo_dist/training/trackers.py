"""Rows of metrics.jsonl for wandb, mlflow and trackio, as a run in them that goes on where a resumed training does.

Only rank 0 has them. Where they write, and as whom, they are told by their own environment variables (WANDB_MODE,
MLFLOW_TRACKING_URI, ...). None of them can end a training: what fails is said once and left out from there on.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.errors import shortened
from sparsepo_dist.files import read_json

log = logging.getLogger(__name__)

IDS = "trackers.json"
"""The runs' ids in the trackers, in the run's folder."""
_PROJECT = "sparsepo"


class _Tracker(Protocol):
    id: str

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self, *, failed: bool) -> None: ...


class _Wandb:
    def __init__(self, run: Path, known: str | None, config: Mapping[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT), name=os.environ.get("WANDB_NAME", run.name), id=known,
            resume=None if known is None else "allow", dir=str(run), config=dict(config),
            settings=wandb.Settings(console="off"),  # standard streams are this package's own
        )  # fmt: skip
        # wandb drops what has a smaller step than the last; a resumed run repeats some steps.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self.id = str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Mlflow:
    def __init__(self, run: Path, known: str | None, config: Mapping[str, Any]) -> None:
        mlflow = importlib.import_module("mlflow")
        self._metric = mlflow.entities.Metric
        self._client = mlflow.MlflowClient()
        if known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            of = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
            known = str(self._client.create_run(of, run_name=run.name).info.run_id)
            self._client.log_dict(known, dict(config), "config.json")
        else:
            self._client.update_run(known, status="RUNNING")
        self.id = known

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(
            self.id, metrics=[self._metric(name, value, now, step) for name, value in values.items()]
        )

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self.id, status="FAILED" if failed else "FINISHED")


class _Trackio:
    def __init__(self, run: Path, known: str | None, config: Mapping[str, Any]) -> None:
        self._trackio = importlib.import_module("trackio")
        # It resumes by name, of which it lets there be several.
        self.id = known or f"{run.name}-{uuid.uuid4().hex[:8]}"
        project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
        self._trackio.init(project=project, name=self.id, config=dict(config), resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        self._trackio.finish()


_KINDS: dict[str, type[_Wandb] | type[_Mlflow] | type[_Trackio]] = {
    "wandb": _Wandb,
    "mlflow": _Mlflow,
    "trackio": _Trackio,
}


def missing_tracker(names: Sequence[str]) -> str | None:
    """The first of these that is not installed."""
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, such as wandb leaves, is no package
            return name
    return None


class Trackers:
    """What several trackers are told, on rank 0; nothing elsewhere."""

    def __init__(self, names: Sequence[str], run: Path, config: Mapping[str, Any], *, resumed: bool) -> None:
        """Begin a run in each; of a training that is resumed, go on with the one whose id stands in its folder."""
        self._open: dict[str, _Tracker] = {}
        if rank() != 0 or not names:
            return
        ids = _ids(run) if resumed else {}
        for name in names:
            try:
                self._open[name] = _KINDS[name](run, ids.get(name), config)
                ids[name] = self._open[name].id
                (run / IDS).write_text(json.dumps(ids, indent=1) + "\n", encoding="utf-8")
            except Exception as error:  # whatever networks, accounts, servers and full disks bring
                _leave_out(name, error)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """One row, its names SPLIT/NAME, by which all of them group charts; what is no number is left out."""
        values = {f"{split}/{name}": value for name, value in metrics.items() if math.isfinite(value)}
        for name in list(self._open):
            try:
                self._open[name].log(step, values)
            except Exception as error:  # as above
                del self._open[name]
                _leave_out(name, error)

    def close(self, *, failed: bool) -> None:
        """End the runs in them."""
        for name, tracker in self._open.items():
            try:
                tracker.close(failed=failed)
            except Exception as error:  # as above
                _leave_out(name, error)
        self._open.clear()


def _ids(run: Path) -> dict[str, str]:
    if not (run / IDS).is_file():
        return {}
    try:
        found = read_json(run / IDS)
        return {str(name): str(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        log.warning("training.track: %s cannot be read (%s): new runs are begun", run / IDS, error)
        return {}


def _leave_out(name: str, error: Exception) -> None:
    said = shortened(str(error) or type(error).__name__, 300)
    log.warning("training.track: %s fails, and is told nothing from here on: %s", name, said)

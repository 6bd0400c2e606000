"""Rows of metrics.jsonl for wandb, mlflow and trackio, as a run in them that goes on where a resumed training does.

Only rank 0 has them. Where they write, and as whom, they are told by their own environment variables (WANDB_MODE,
MLFLOW_TRACKING_URI, ...). None of them can end or hold up a training: each is told by a thread of its own, and what
fails or does not keep up is said once and left out from there on.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import os
import queue
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sparsepo_dist.engines.deepspeed.ranks import rank
from sparsepo_dist.errors import shortened
from sparsepo_dist.files import read_json

log = logging.getLogger(__name__)

IDS = "trackers.json"
"""The runs' ids in the trackers, in the run's folder."""
MOST_ROWS = 10_000
"""That wait for a tracker, before it is left out."""
MOST_SECONDS = 30.0
"""That a training which is done waits for its trackers."""
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
        self._told: list[_Told] = []
        if rank() != 0 or not names:
            return
        ids = _Ids(run, resumed=resumed)
        self._told = [_Told(name, ids, config) for name in names]

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """One row, its names SPLIT/NAME, by which all of them group charts; what is no number is left out."""
        values = {f"{split}/{name}": value for name, value in metrics.items() if math.isfinite(value)}
        for told in self._told:
            told.put((step, values))

    def close(self, *, failed: bool) -> None:
        """End the runs in them, of which those that do not answer are waited for MOST_SECONDS in all."""
        end = time.monotonic() + MOST_SECONDS
        for told in self._told:
            told.put(failed)
        for told in self._told:
            told.wait(end - time.monotonic())
        self._told = []


class _Told:
    """A tracker with the thread that alone calls it, and the rows that it has not been told yet."""

    def __init__(self, name: str, ids: _Ids, config: Mapping[str, Any]) -> None:
        self._name = name
        self._rows: queue.Queue[tuple[int, dict[str, float]] | bool] = queue.Queue(MOST_ROWS)
        self._left_out, self._once = threading.Event(), threading.Lock()
        # A daemon: one that hangs does not keep the process.
        self._thread = threading.Thread(target=self._tell, args=(ids, config), name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, row: tuple[int, dict[str, float]] | bool) -> None:
        """A row, or, at the end, whether the training failed."""
        if self._left_out.is_set():
            return
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self._leave_out(f"it does not keep up, {MOST_ROWS:,} rows wait for it")

    def wait(self, seconds: float) -> None:
        """For all to be told."""
        if not self._left_out.is_set():
            self._thread.join(max(0.0, seconds))
            if self._thread.is_alive():
                self._leave_out(f"it does not answer, {self._rows.qsize():,} rows wait for it")

    def _tell(self, ids: _Ids, config: Mapping[str, Any]) -> None:
        try:
            tracker = _KINDS[self._name](ids.run, ids.known(self._name), config)
            ids.keep(self._name, tracker.id)
            while not self._left_out.is_set():
                row = self._rows.get()
                if isinstance(row, bool):
                    tracker.close(failed=row)
                    return
                tracker.log(*row)
        except Exception as error:  # whatever networks, accounts, servers and full disks bring
            self._leave_out(str(error) or type(error).__name__)

    def _leave_out(self, why: str) -> None:
        with self._once:
            if not self._left_out.is_set():
                said = shortened(why, 300)
                log.warning("training.track: %s fails, and is told nothing from here on: %s", self._name, said)
                self._left_out.set()


class _Ids:
    """The ids of a run in its trackers, kept in its folder. Threads of several trackers have them in common."""

    def __init__(self, run: Path, *, resumed: bool) -> None:
        self.run = run
        self._ids = _read_ids(run) if resumed else {}
        self._lock = threading.Lock()

    def known(self, name: str) -> str | None:
        """A tracker's, of the training that is gone on with."""
        return self._ids.get(name)

    def keep(self, name: str, found: str) -> None:
        """Write it down."""
        with self._lock:
            self._ids[name] = found
            (self.run / IDS).write_text(json.dumps(self._ids, indent=1) + "\n", encoding="utf-8")


def _read_ids(run: Path) -> dict[str, str]:
    if not (run / IDS).is_file():
        return {}
    try:
        found = read_json(run / IDS)
        return {str(name): str(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        log.warning("training.track: %s cannot be read (%s): new runs are begun", run / IDS, error)
        return {}

"""Trackers: what they are told, that a resumed run goes on in the same one, and that none of them ends a training."""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.training import config as training_config
from sparsepo_dist.training import trackers as trackers_of
from sparsepo_dist.training.config import TrainingConfig
from sparsepo_dist.training.metrics import MetricsWriter
from sparsepo_dist.training.trackers import IDS, Trackers, missing_tracker

ROW = {"loss": 0.5, "kl": 2.0, "accuracy": math.nan}


class FakeWandb:
    """The functions of wandb that are called, and with what."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.ended: list[int] = []
        self.fails = False

    def Settings(self, **values: Any) -> dict[str, Any]:  # noqa: N802  (its name)
        return values

    def init(self, **how: Any) -> FakeWandb:
        self.begun.append(how)
        self.id = how["id"] or f"id{len(self.begun)}"
        return self

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        if self.fails:
            raise ConnectionError("no route to host")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    return fake


def written(run: Path, names: list[str], *steps: int, resumed: bool = False) -> None:
    trackers = Trackers(names, run, {"seed": 1}, resumed=resumed)
    with MetricsWriter(run / "metrics.jsonl", None, trackers) as writer:
        for step in steps:
            writer.write(step, "train", ROW, {})


def test_rows_names_and_a_resumed_run(wandb: FakeWandb, tmp_path: Path) -> None:
    written(tmp_path, ["wandb"], 1, 2)
    assert wandb.rows == [{"step": step, "train/loss": 0.5, "train/kl": 2.0} for step in (1, 2)]
    assert wandb.begun[0]["id"] is None and wandb.begun[0]["config"] == {"seed": 1} and wandb.ended == [0]
    assert wandb.begun[0]["name"] == tmp_path.name and wandb.begun[0]["project"] == "sparsepo"
    written(tmp_path, ["wandb"], 3, resumed=True)
    assert (wandb.begun[1]["id"], wandb.begun[1]["resume"]) == ("id1", "allow")
    written(tmp_path, ["wandb"], 1)
    assert wandb.begun[2]["id"] is None, "a new training in an old folder is a new run"
    (tmp_path / IDS).write_text("{")
    written(tmp_path, ["wandb"], 1, resumed=True)
    assert wandb.begun[3]["id"] is None


def test_a_training_that_fails_is_said_to_have_failed(wandb: FakeWandb, tmp_path: Path) -> None:
    trackers = Trackers(["wandb"], tmp_path, {}, resumed=False)
    with pytest.raises(RuntimeError), MetricsWriter(tmp_path / "metrics.jsonl", None, trackers):
        raise RuntimeError
    assert wandb.ended == [1]


def test_a_tracker_that_fails_is_said_once_and_ends_nothing(
    wandb: FakeWandb, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.fails = True
    with caplog.at_level(logging.WARNING):
        written(tmp_path, ["wandb"], 1, 2, 3)
    assert [record.getMessage() for record in caplog.records] == [
        "training.track: wandb fails, and is told nothing from here on: no route to host"
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(ValueError("no account")))
    written(tmp_path, ["wandb"], 1)
    assert "no account" in caplog.text


def test_a_tracker_that_hangs_holds_up_no_training(
    wandb: FakeWandb, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never answers: not while rows come, not at the end, and, where many come, not before they are too many."""
    answers = threading.Event()
    monkeypatch.setattr(wandb, "log", lambda _: answers.wait())
    monkeypatch.setattr(trackers_of, "MOST_SECONDS", 0.0)
    written(tmp_path, ["wandb"], 1, 2)
    assert "wandb fails, and is told nothing from here on: it does not answer" in caplog.text
    monkeypatch.setattr(trackers_of, "MOST_ROWS", 2)
    caplog.clear()
    written(tmp_path, ["wandb"], *range(10))
    assert [record.getMessage() for record in caplog.records] == [
        "training.track: wandb fails, and is told nothing from here on: it does not keep up, 2 rows wait for it"
    ]
    answers.set()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 12


def test_trackio_is_given_the_step_and_resumes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake = SimpleNamespace(
        init=lambda **how: calls.append(how), log=lambda row, step: calls.append((row, step)),
        finish=lambda: calls.append("finished"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "trackio", fake)  # type: ignore[arg-type]
    written(tmp_path, ["trackio"], 4)
    name = calls[0].pop("name")
    assert name.startswith(f"{tmp_path.name}-")
    assert calls[0] == {"project": "sparsepo", "config": {"seed": 1}, "resume": "allow"}
    assert calls[1:] == [({"train/loss": 0.5, "train/kl": 2.0}, 4), "finished"]
    written(tmp_path, ["trackio"], 5, resumed=True)
    assert calls[3]["name"] == name


def test_trackio_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio")
    for run in (tmp_path / "one" / "run", tmp_path / "two" / "run"):
        run.mkdir(parents=True)
        written(run, ["trackio"], 1)
        written(run, ["trackio"], 2, resumed=True)
    with sqlite3.connect(tmp_path / "store" / "sparsepo.db") as store:
        rows = list(store.execute("SELECT run_name, step FROM metrics ORDER BY id"))
    assert [step for _, step in rows] == [1, 2, 1, 2]
    assert rows[0][0] == rows[1][0] != rows[2][0] == rows[3][0], "two trainings of one name are two runs"


def test_a_tracker_that_is_not_installed_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_such_tracker").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert missing_tracker(["json", "no_such_tracker"]) == "no_such_tracker", "a folder is no package"
    monkeypatch.setattr(training_config, "missing_tracker", lambda names: names[0] if names else None)
    with pytest.raises(UserError, match="training.track: mlflow is not installed: pip install mlflow"):
        TrainingConfig(track=["mlflow"]).validate()
    TrainingConfig().validate()


def test_wandb_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    written(tmp_path, ["wandb"], 1, 2)
    first = json.loads((tmp_path / IDS).read_text())["wandb"]
    written(tmp_path, ["wandb"], 3, resumed=True)
    files = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert files == [f"run-{first}.wandb"] * 2, "two parts of one run"


def test_mlflow_itself_in_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    written(tmp_path, ["mlflow"], 1, 2)
    written(tmp_path, ["mlflow"], 3, resumed=True)
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("sparsepo").experiment_id])
    assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "train/loss")] == [
        (1, 0.5), (2, 0.5), (3, 0.5),
    ]  # fmt: skip
    assert run.info.status == "FINISHED"

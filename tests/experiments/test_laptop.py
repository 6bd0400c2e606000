"""Every laptop experiment, from its file to its page, on a tiny model."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.experiments.command import experiment
from sparsepo_dist.experiments.files.runs import CHECKOUT
from sparsepo_dist.experiments.stages.work import Work
from sparsepo_dist.files import read_json
from tests.support.laptop import NAMES, laptop_file, save_models, smoke_file
from tests.support.warm import hearth


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def _in_warm_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the project's folder, as recipes are named."""
    made = Work.__init__

    def warmed(work: Work, *arguments: Any, **named: Any) -> None:
        made(work, *arguments, **named)
        for name, command in work.commands.items():
            work.commands[name] = ["-m", "tests.support.warm", *(command[1:] if command[0] == "-m" else command)]

    monkeypatch.setattr(Work, "__init__", warmed)
    monkeypatch.chdir(CHECKOUT)
    for name, value in hearth().items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", NAMES)
def test_laptop_files_name_nothing_that_a_hub_has(name: str) -> None:
    said = laptop_file(name)
    prepared, start = said["prepare"]["options"], said.get("sft", said["base"])["options"]
    read = [value for option, value in prepared.items() if option in ("texts", "model", "train", "source")]
    assert read and all(value.startswith("builtin:") for value in [*read, start["model.path"]])
    assert prepared.get("scorer", "vader") == "vader"
    assert not {"bertscore_model", "edna_model", "scorer", "harness"} & {o for s in said["suites"].values() for o in s}


@pytest.mark.slow
@pytest.mark.usefixtures("_in_warm_processes")
@pytest.mark.parametrize("name", NAMES)
def test_laptop_experiment_from_its_file_to_its_page(name: str, models: Path, tmp_path: Path) -> None:
    file = smoke_file(name, models, tmp_path)
    said: list[str] = []
    experiment(Namespace(command="run", file=file), said.append)
    experiment(Namespace(command="report", file=file), said.append)
    found = json.loads((tmp_path / "out" / "runs.json").read_text())
    assert not found["missing"] and all(run["results"] for run in found["runs"])
    if name == "sentiment":
        steps = {(row["method"], row["step"]) for row in read_json(tmp_path / "out" / "figure2-frontier.json")["rows"]}
        assert {("DPO", 1), ("DPO", None)} <= steps, "each run is measured on its way"
    if name == "iterated":
        results = {run["name"]: Path(run["results"]["frontier"]) for run in found["runs"] if run["method"] != "start"}
        first, second = (read_json(results[run] / "frontier.json") for run in ("dpo-seed1", "dpo_round2-seed1"))
        assert first["reference"] == second["reference"], "both are measured from what the first began from"
        assert first["rows"] != second["rows"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "What is missing" not in page
    assert all(f'<h2 id="{draw}">' in page for draw in found["draws"])

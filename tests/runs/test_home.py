"""`~` at the beginning of a path is the user's folder: in recipes, on command lines, in options of the drivers."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsepo_dist.evaluation.models import split_name
from sparsepo_dist.files import argument, path_argument
from sparsepo_dist.runs.parsing import parse_train


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_paths_of_a_recipe_and_of_a_command_line_are_expanded(home: Path) -> None:
    (home / "run.yaml").write_text(
        "model: {path: ~/model, adapter: lora, adapter_path: '~/sft'}\n"
        "reference: {path: ~/other}\ndata: {train: ~/pairs.jsonl}\noutput_dir: ~/runs/1\n"
    )
    config = parse_train(["--recipe=~/run.yaml", "--oracle.path=~/oracle", "--data.heldout", "~/heldout.jsonl"])
    found = (
        config.model.path, config.model.adapter_path, config.reference.path, config.data.train, config.output_dir,
        config.oracle.path, config.data.heldout,
    )  # fmt: skip
    names = ("model", "sft", "other", "pairs.jsonl", "runs/1", "oracle", "heldout.jsonl")
    assert found == tuple(str(home / name) for name in names)


def test_other_texts_stay_as_they_are(home: Path) -> None:
    config = parse_train(["--model.path", "org/model~1", "--data.train", "./a//b.jsonl"])
    assert (config.model.path, config.data.train) == ("org/model~1", "./a//b.jsonl")


def test_options_of_drivers_are_expanded(home: Path) -> None:
    assert argument("~/model") == str(home / "model") and path_argument("~/out") == home / "out"
    assert split_name("ours=~/model") == ("ours", str(home / "model"))

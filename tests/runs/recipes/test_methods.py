"""Another objective on a paper's recipe is told which file has its values; starts that a recipe has to train first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.plan.asked.request import Request, resolve
from sparsepo_dist.runs.inputs import load_inputs
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.recipes.files import read_recipe, value_of
from tests.runs.recipes.test_files import write
from tests.support.documents import ROOT
from tests.support.runs import ZERO
from tests.support.tiny import save_tiny_model

DIALOGUE = Path("launch/recipes/dialogue")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("recipe", "objective", "told"),
    [
        ("sparsepo_independent", "simpo", "are for sparsepo, .*: launch/recipes/dialogue/simpo.yaml has those for it"),
        ("dpo", "sft", "are for dpo, .*: launch/recipes/dialogue/sft.yaml has those for it"),
        ("dpo", "sparsepo", "sparsepo_common.yaml and launch/recipes/dialogue/sparsepo_independent.yaml have those"),
        ("dpo", "kto", "no recipe in launch/recipes/dialogue is for it"),
    ],
)
def test_another_objective(caplog: pytest.LogCaptureFixture, recipe: str, objective: str, told: str) -> None:
    parse_train([f"--recipe={DIALOGUE / f'{recipe}.yaml'}", "--objective.name", objective])
    (message,) = caplog.messages
    assert re.search(told, message)
    assert message.startswith(f"objective.name is {objective}, but the values in {DIALOGUE / recipe}.yaml are for")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--recipe", str(DIALOGUE / "dpo.yaml")],
        ["--recipe", str(DIALOGUE / "dpo.yaml"), "--objective.name=dpo"],
        ["--recipe", str(DIALOGUE / "dpo.yaml"), "--objective.beta", "0.3"],
        [
            "--recipe", str(DIALOGUE / "dpo.yaml"), "--objective.name=simpo", "--objective.beta", "2",
            "--training.learning_rate=1e-6",
        ],
        ["--recipe", "launch/recipes/sentiment.yaml", "--objective.name", "dpo"],
        ["--objective.name", "dpo"],
    ],
)  # fmt: skip
def test_what_is_meant_is_not_remarked_on(caplog: pytest.LogCaptureFixture, arguments: list[str]) -> None:
    parse_train(arguments)
    assert caplog.messages == []


def test_one_of_both_constants_is_not_enough(caplog: pytest.LogCaptureFixture) -> None:
    parse_train(["--recipe", str(DIALOGUE / "dpo.yaml"), "--objective.name=simpo", "--objective.beta=2.5"])
    assert "simpo.yaml has those for it" in caplog.text


def test_a_broken_file_beside_the_recipe_stops_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    write(
        tmp_path, base="training: {epochs: 1}\n", dpo="base: base.yaml\nobjective: {name: dpo}\n", broken="base: [\n",
        simpo="base: base.yaml\nobjective: {name: simpo}\n", other="objective: {name: simpo}\n",
    )  # fmt: skip
    parse_train(["--recipe", str(tmp_path / "dpo.yaml"), "--objective.name=simpo"])
    assert f": {tmp_path / 'simpo.yaml'} has those for it" in caplog.text


def test_a_start_that_is_to_be_trained_is_asked_for() -> None:
    config = parse_train(["--recipe", str(DIALOGUE / "dpo.yaml")])
    with pytest.raises(UserError, match=r"not from a base model\. Run that first \(.*dialogue/sft\.yaml\)"):
        load_inputs(config)


def test_a_plan_takes_the_shape_of_what_is_trained(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", "gpt_neox", positions=2048)
    write(
        tmp_path, base=f"model: {{path: 'trained-by:{tmp_path}/sft.yaml'}}\n",
        dpo="base: base.yaml\nobjective: {name: dpo}\n",
        sft=f"base: base.yaml\nmodel: {{path: {model}}}\nobjective: {{name: sft}}\n",
    )  # fmt: skip
    setting = resolve(Request(parse_train(["--recipe", str(tmp_path / "dpo.yaml")]), ZERO[3], gpus=2))
    assert setting.config.model.path == str(model) and setting.policy.model_type == "gpt_neox"
    (tmp_path / "sft.yaml").write_text("base: base.yaml\n")
    with pytest.raises(UserError, match=r"sft\.yaml, which trains it, names no model itself"):
        resolve(Request(parse_train(["--recipe", str(tmp_path / "dpo.yaml")]), ZERO[3], gpus=2))


def test_recipes_with_a_masked_divergence_say_which_form_and_why() -> None:
    said = 0
    for path in sorted(Path("launch/recipes").rglob("*.yaml")):
        files = read_recipe(str(path))
        if value_of(files, "objective.name") in ("sparsepo", "mapo"):
            assert value_of(files, "objective.divergence") in ("policy", "reference"), path
            (where,) = {file.path for file in files if value_of([file], "objective.divergence")}
            comments = " ".join(line for line in where.read_text(encoding="utf-8").splitlines() if "#" in line)
            assert "Eq. 6-8" in comments and "docs/objectives.md" in comments, where
            said += 1
    assert said > 10

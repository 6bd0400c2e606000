"""Recipes on bases: the lowest counts least, the command line most; what cannot be is refused with file and line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.recipes.files import MOST_FILES


def write(folder: Path, **files: str) -> None:
    """One file a name, `__` standing for a folder's slash."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def parsed(path: Path, *arguments: str) -> RunConfig:
    return parse_train(["--recipe", str(path), *arguments])


def test_the_nearest_value_counts_field_by_field(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="objective: {name: tdpo2, beta: 0.2, alpha: 0.3}\ntraining.epochs: 2\nmodel: {path: lowest}\n"
        "masks: {site_types: [mlp, attention]}\n",
        domain__middle="base: ../base.yaml\nobjective: {beta: 0.4}\ntraining: {learning_rate: 1e-6}\n",
        domain__top="objective.alpha: 0.7\nbase: middle.yaml\nmasks: {site_types: [residual]}\n",
    )
    config = parsed(tmp_path / "domain" / "top.yaml", "--objective.beta", "0.9", "--training.epochs=3")
    assert (config.objective.name, config.objective.beta, config.objective.alpha) == ("tdpo2", 0.9, 0.7)
    assert (config.training.epochs, config.training.learning_rate, config.model.path) == (3, 1e-6, "lowest")
    assert config.masks.site_types == ["residual"]


def test_what_holds_names_of_the_users_own_is_replaced_as_a_whole(tmp_path: Path) -> None:
    below = "data:\n  columns: {prompt: q, chosen: good}\n  chat_template_kwargs: {a: 1}\n"
    write(tmp_path, base=below, top="base: base.yaml\ndata:\n  columns: {prompt: p}\n  chat_template_kwargs: {b: 2}\n")
    data = parsed(tmp_path / "top.yaml").data
    assert (data.columns, data.chat_template_kwargs) == ({"prompt": "p"}, {"b": 2})


def test_null_takes_back_what_the_base_says(tmp_path: Path) -> None:
    write(tmp_path, base="objective: {name: dpo, beta: 0.2}\n", top="base: base.yaml\nobjective: {beta: null}\n")
    assert parsed(tmp_path / "top.yaml").objective.beta is None


def test_a_base_alone_is_the_same_recipe(tmp_path: Path) -> None:
    write(tmp_path, base="objective: {name: dpo, beta: 0.2}\n", top="base: base.yaml\n")
    assert parsed(tmp_path / "top.yaml") == parsed(tmp_path / "base.yaml")


def test_several_recipes_each_on_its_base_count_in_order(tmp_path: Path) -> None:
    write(
        tmp_path, low="objective: {name: dpo, beta: 0.2}\n", first="base: low.yaml\nobjective: {beta: 0.3}\n",
        second="base: low.yaml\ntraining: {epochs: 5}\n",
    )  # fmt: skip
    config = parse_train([f"--recipe={tmp_path / 'first.yaml'}", "--recipe", str(tmp_path / "second.yaml")])
    assert (config.objective.beta, config.training.epochs) == (0.2, 5)


def test_what_a_run_writes_down_needs_no_base(tmp_path: Path) -> None:
    write(tmp_path, base="objective: {name: dpo, beta: 0.2}\n", top="base: base.yaml\ntraining: {epochs: 2}\n")
    config = parsed(tmp_path / "top.yaml")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)).replace("!!python/tuple", ""))
    (tmp_path / "base.yaml").unlink()
    assert parsed(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"top": "\nbase: none.yaml\n"}, r"top\.yaml: line 2: base: .*none\.yaml cannot be read: No such file"),
        ({"top": "base: top.yaml\n"}, r"top\.yaml: line 1: base: .*top\.yaml lies on this file itself"),
        ({"top": "base: a.yaml\n", "a": "base: ./top.yaml\n"}, r"a\.yaml: line 1: base: .*top\.yaml lies on this file"),
        ({"top": "base: [a.yaml, b.yaml]\n"}, r"top\.yaml: line 1: base must name one file"),
        ({"top": "base:\n"}, r"line 1: base must name one file"),
        ({"top": "base: null\n", "null": ""}, r"line 1: base must name one file"),
        ({"top": "base: a.yaml\nbase: a.yaml\n", "a": ""}, r"line 2: base stands there twice"),
        ({"top": "base: a.yaml\n", "a": "x\n"}, r"a\.yaml: it must hold fields"),
        (
            {"top": "base: a.yaml\n", "a": "\nobjectiv: {beta: 1}\n"},
            r"a\.yaml: line 2: there is no field objectiv;",
        ),
        ({"top": "base: a.yaml\n", "a": "objective: {beta: 1:30}\n"}, r"a\.yaml: line 1: objective\.beta: a number"),
        ({"top": "base: a.yaml\n", "a": "objective: {beta: much}\n"}, r"objective\.beta: a number or null is wanted"),
        (
            {"top": "base: 0.yaml\n", **{str(n): f"base: {n + 1}.yaml\n" for n in range(MOST_FILES)}},
            rf"top\.yaml lies on {MOST_FILES} files and more",
        ),
    ],
)
def test_bases_that_cannot_be(tmp_path: Path, files: dict[str, str], told: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(UserError, match=told):
        parsed(tmp_path / "top.yaml")


def test_the_command_line_has_no_base() -> None:
    with pytest.raises(UserError, match="there is no field --base"):
        parse_train(["--base", "launch/recipes/dialogue/base.yaml"])

"""What an experiment file says of its data, as `sparsepo prepare` reads it."""

from __future__ import annotations

from pathlib import Path

from sparsepo_dist.experiments.files.graph import stages_of
from sparsepo_dist.experiments.files.spec import read_experiment
from sparsepo_dist.preparation.command import name_parser
from sparsepo_dist.preparation.registry import preparation

ROOT = Path(__file__).resolve().parents[3]
FILE = """
name: code
prepare: {name: code, options: {train: "builtin:problems", samples: 8, temperature: 0.8, allow_code_execution: true}}
base: {recipe: launch/recipes/code/base.yaml}
methods: {dpo: {}}
"""


def test_options_and_flags_of_a_preparation(tmp_path: Path) -> None:
    file = tmp_path / "code.yaml"
    file.write_text(FILE)
    (stage,) = [stage for stage in stages_of(read_experiment(file, ROOT / "evaluation")) if stage.kind == "prepare"]
    words = list(stage.command)
    given = name_parser("code", preparation("code")).parse_args(words[words.index("code") + 1 :])
    assert (given.train, given.samples, given.temperature) == ("builtin:problems", 8, 0.8)
    assert given.allow_code_execution and given.form == "docstring"
    file.write_text(FILE.replace("true", "false"))
    (stage,) = [stage for stage in stages_of(read_experiment(file, ROOT / "evaluation")) if stage.kind == "prepare"]
    assert not any("allow_code" in word for word in stage.command)

"""What is wrong with an experiment's file is said with its line and the nearest name, before anything is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.files.checks import check_runs
from sparsepo_dist.experiments.files.runs import CHECKOUT
from sparsepo_dist.experiments.files.spec import read_experiment

FILE = f"""name: small
base: {{recipe: {CHECKOUT}/launch/recipes/sentiment.yaml}}
methods:
  dpo:
    options: {{objective.name: dpo}}
grid: {{objective.beta: [0.1, 0.8]}}
suites:
  frontier: {{seed: "{{training.seed}}"}}
draws: [summary]
"""


OPTIONS = "    options"
MISTAKES = [
    ("grid:", "gird:", "line 6: there is no field gird; did you mean grid?"),
    ("objective.beta", "objective.bta", "line 6: there is no field objective.bta; did you mean beta?"),
    ("objective.beta: [0.1, 0.8]", "objective.beta: 0.1", "line 6: grid.objective.beta: a list of values is wanted"),
    ("[0.1, 0.8]", "[0.1, much]", "line 4: methods.dpo: objective.beta: a number or null is wanted, found much"),
    ("[0.1, 0.8]", "[0.1, 0.1]", "two runs are called dpo-beta0.1; rename a method, or remove a value"),
    ("{objective.name: dpo}", "{objective.name: dpoo}", "line 4: methods.dpo: objective.name"),
    ("{objective.name: dpo}", "{objective: dpo}", "line 5: objective is a section; write its fields one by one"),
    ("{objective.name: dpo}", "{masks.floor: 2}", "line 4: methods.dpo: masks.floor: 2.0 must be in [0, 1)"),
    (OPTIONS, f"    recipe: /proc/no.yaml\n{OPTIONS}", "line 5: methods.dpo.recipe: /proc/no.yaml cannot be read"),
    (OPTIONS, f"    seeds: [-1]\n{OPTIONS}", "line 5: methods.dpo.seeds: whole numbers, 0 or more"),
    (OPTIONS, f"    cache: some\n{OPTIONS}", "line 5: methods.dpo.cache: true, false or all_layers is wanted"),
    (OPTIONS, f"    runs: [{{training.seed: 1}}]\n    seeds: [2]\n{OPTIONS}", "has seeds, and training.seed in"),
    ("training.seed", "trainin.seed", "line 8: suites.frontier: {trainin.seed} is neither prepare, sft nor a field"),
    ("frontier: {", "frontier: {top_q: 1, ", "line 8: suites.frontier: frontier does not take its options"),
    ("draws:", "select: {suite: frontie, metric: kl}\ndraws:", "line 9: select.suite: 'frontie' is none of suites"),
    ("draws:", "select: {suite: frontier}\ndraws:", "line 9: select.metric is missing"),
    ("draws:", "selected_suites: {code: {}}\ndraws:", "line 9: selected_suites: nothing is selected"),
    ("[summary]", "[summary, figure22]", "line 9: draws: 'figure22' cannot be drawn; did you mean figure2?"),
    ("draws:", "ranks: 3\nslurm: {nodes: 2}\ndraws:", "ranks: 3 ranks do not go evenly on 2 nodes"),
    ("base:", "prepare: {name: sentimen}\nbase:", "line 2: prepare.name: 'sentimen' cannot be prepared; did you mean"),
    (
        "base:",
        "prepare: {name: mix, options: {tran: x}}\nbase:",
        "line 2: prepare.options: `sparsepo prepare mix`",
    ),
    ("name: small", "name: a/../b", "line 1: name: 'a/../b' cannot name a folder of results"),
    ("  dpo:", "  sft:", "line 4: methods.sft: stages of another kind are called so; name it otherwise"),
    ("[0.1, 0.8]", "&a [0.1, *a]", "line 6: grid.objective.beta: numbers, true, false, null and texts"),
    ("[0.1, 0.8]", "[2020-01-01]", "line 6: grid.objective.beta: numbers, true, false, null and texts"),
    ("[0.1, 0.8]", '["\\0"]', "line 6: grid.objective.beta: numbers, true, false, null and texts"),
    ("[0.1, 0.8]", "[!!binary aGVs]", "line 6: grid.objective.beta: numbers, true, false, null and texts"),
    ("[0.1, 0.8]", "[!!python/name:os.system '']", "line 6: grid.objective.beta: numbers, true, false, null"),
    ("draws:", "code: hash\ndraws:", "line 9: code: 'hash' is not one of source, version"),
]


@pytest.mark.parametrize(("there", "instead", "words"), MISTAKES)
def test_mistakes(tmp_path: Path, there: str, instead: str, words: str) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(FILE.replace(there, instead, 1))
    assert file.read_text() != FILE
    with pytest.raises(UserError, match=re.escape(words)):
        check_runs(file, read_experiment(file, CHECKOUT / "evaluation").runs)

"""What is selected follows from the results that are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.collected import collect
from sparsepo_dist.experiments.files.runs import CHECKOUT
from sparsepo_dist.experiments.files.spec import ExperimentFile, read_experiment
from sparsepo_dist.experiments.settled import settle
from sparsepo_dist.queueing.job import DONE, State

FILE = """name: small
output: {folder}/out
stages: {folder}/stages
base: {{recipe: {checkout}/launch/recipes/sentiment.yaml}}
methods:
  dpo: {{options: {{objective.name: dpo}}}}
grid: {{objective.beta: [1, 2]}}
seeds: [1, 2]
suites: {{tune: {{driver: frontier, prompt_count: 2}}}}
select: {{suite: tune, metric: reward, best: {best}, seeds: [3]}}
selected_suites: {{frontier: {{}}}}
"""


def experiment(folder: Path, best: str = "highest") -> ExperimentFile:
    file = folder / "experiment.yaml"
    file.write_text(FILE.format(folder=folder, checkout=CHECKOUT, best=best))
    return read_experiment(file, CHECKOUT / "evaluation")


def done(file: ExperimentFile, rewards: dict[str, float], column: str = "reward") -> None:
    work = settle(file).work
    for run, reward in rewards.items():
        work.jobs[run].write(State(DONE))
        suite = work.jobs[f"{run}/tune"]
        suite.results.mkdir(parents=True)
        (suite.results / "frontier.json").write_text(json.dumps({"scorer": "s", "rows": [{column: reward}]}))
        suite.write(State(DONE))


REWARDS = {"dpo-beta1-seed1": 0.9, "dpo-beta1-seed2": 0.1, "dpo-beta2-seed1": 0.6, "dpo-beta2-seed2": 0.6}


@pytest.mark.parametrize(("best", "beta"), [("highest", 2), ("lowest", 1)])
def test_the_best_by_the_mean_over_seeds(tmp_path: Path, best: str, beta: int) -> None:
    file = experiment(tmp_path, best)
    last = REWARDS.popitem()
    done(file, REWARDS)
    assert settle(file).selected == {}, "one of the method's runs is not done"
    done(file, dict([last]))
    REWARDS.update([last])
    found = settle(file)
    assert found.selected == {"dpo": f"dpo-beta{beta}-seed1"}
    assert {f"dpo-beta{beta}-seed3/frontier", f"dpo-beta{beta}-seed2/frontier"} <= set(found.work.jobs)
    collected = collect(file, found)
    assert collected.selected == found.selected and len(collected.runs) == 4
    assert collected.missing[f"dpo-beta{beta}-seed3"] == "not run yet"


def test_a_number_that_is_not_there(tmp_path: Path) -> None:
    file = experiment(tmp_path)
    done(file, REWARDS, column="rewards")
    with pytest.raises(UserError, match="select.metric: dpo-beta1-seed1/tune has no number 'reward'; did you mean"):
        settle(file)


def test_a_training_that_ended_in_nan_is_no_candidate(tmp_path: Path) -> None:
    file = experiment(tmp_path)
    done(file, {**REWARDS, "dpo-beta2-seed1": float("nan")})
    assert settle(file).selected == {"dpo": "dpo-beta1-seed1"}

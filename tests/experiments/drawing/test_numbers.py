"""What is read of runs and results, and how runs become variants."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.evaluation.frontier.tables import write_frontier_tables
from sparsepo_dist.evaluation.models import results_folder
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.experiments.contracts import Experiment, TrainedRun
from sparsepo_dist.experiments.drawing.numbers.grouping import over_beta, seed, shown, variants
from sparsepo_dist.experiments.drawing.numbers.reading import Collected
from tests.support.experiment_runs import SCORER, SETTINGS, heldout, trained, write_run


def experiment(*runs: TrainedRun) -> Experiment:
    return Experiment("test", runs, {}, {}, ())


def bare(method: str, **values: object) -> TrainedRun:
    grid = {name.replace("__", "."): value for name, value in values.items()}
    return TrainedRun(f"{method}-{grid}", method, grid, Path("/none"), "", "", {}, {})


def test_runs_that_differ_in_seeds_alone_are_one_variant() -> None:
    runs = [
        bare("dpo", objective__beta=beta, training__seed=s, masks__layers="last") for s in (1, 2) for beta in (0.8, 0.1)
    ]
    found = variants([*runs, bare("dpo", objective__beta=0.1, training__seed=1, masks__layers="all")])
    assert [(one.beta, one.set, len(one.runs)) for one in found] == [
        (0.1, "layers all", 1), (0.1, "layers last", 2), (0.8, "layers last", 2),
    ]  # fmt: skip
    assert [seed(run) for run in found[1].runs] == ["1", "2"]


def test_methods_have_the_papers_names_and_order() -> None:
    assert shown("sparsepo_common") == "SparsePO, common mask"
    assert shown("sparsepo_independent_reference") == "SparsePO, independent masks, reference"
    assert shown("tdpo2") == "TDPO v2" and shown("dpop") == "DPOP" and shown("mine") == "mine"
    found = variants([bare("mine"), bare("sparsepo_common_x"), bare("dpop"), bare("dpo"), bare("sft")])
    assert [one.method for one in found] == ["sft", "dpo", "dpop", "sparsepo_common_x", "mine"]


def test_what_stands_at_one_beta_is_left_out_of_grids_alone() -> None:
    grid = [bare("dpo", objective__beta=beta) for beta in (0.1, 0.2)]
    kept, alone = over_beta(variants([*grid, bare("last", objective__beta=0.1)]))
    assert {one.method for one in kept} == {"dpo"} and alone == ["last"]
    kept, alone = over_beta(variants([grid[0], bare("last", objective__beta=0.1)]))
    assert len(kept) == 2 and alone == []


def test_results_of_the_driver_itself_are_read_with_their_prompts(tmp_path: Path) -> None:
    """By the driver's own writers: two prompts of two samples."""
    model = tmp_path / "run" / "final"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    target, output = Target("run", str(model)), tmp_path / "results"
    kept = Results(output / "models" / results_folder(target), target, {})
    kept.write("reward-other", [9.0, 9.0, 9.0, 9.0])
    kept.write("reward-vader", [0.0, 1.0, 0.5, 0.1])
    kept.write("kl-0123", [1.0, 2.0, 3.0, 4.0])
    row = {
        "method": "dpo", "model": "run", "step": None, "path": str(model), "kl": 2.5, "kl_stderr": 1.0, "reward": 0.4,
        "reward_stderr": 0.1, "settings": None,
    }  # fmt: skip
    origin = {**row, "method": "reference", "kl": 0.0, "reward": 0.25}
    write_frontier_tables([row], origin, SCORER, SETTINGS, output)
    run = TrainedRun("a", "dpo", {}, tmp_path / "run", "", "", {"f": output}, {"f": "frontier.py"})
    collected = Collected(experiment(run))
    assert collected.suites("frontier") == ["f"]
    [point] = collected.points("f")
    assert point.rewards.tolist() == [0.5, 0.3] and point.kls.tolist() == [1.5, 3.5]
    assert (point.kl, point.reward, point.origin, point.step) == (2.5, 0.4, 0.25, None)


def test_the_metrics_that_are_drawn_are_those_that_objectives_report() -> None:
    from sparsepo_dist.objectives.base import Sums
    from sparsepo_dist.objectives.metrics import preference_metrics

    numbers = torch.tensor([0.1, 0.2, 0.3])
    stats = TokenStats(policy_logp=-numbers, reference_logp=-2 * numbers, divergence=numbers)
    responses = Responses(sequence_id=torch.tensor([0, 0, 1]), pairs=1)
    found = preference_metrics(stats, TokenMasks(numbers, numbers), Sums(responses), 0.1)
    assert heldout().keys() - {"loss", "pairs"} <= found.keys()


def test_measured_otherwise_or_damaged_is_left_out_and_said(tmp_path: Path) -> None:
    runs = [trained(tmp_path, "dpo", 0.1, seed, reward=0.3, kl=1.0) for seed in (1, 2, 3)]
    other = json.loads((runs[1].results["frontier"] / "frontier.json").read_text())
    other["settings"]["temperature"] = 0.5
    (runs[1].results["frontier"] / "frontier.json").write_text(json.dumps(other))
    (runs[2].results["frontier"] / "frontier.json").write_text("{")
    (runs[2].run / "metrics.jsonl").write_text("{broken\n{}\n")
    collected = Collected(experiment(*runs))
    assert [point.run.name for point in collected.points("frontier")] == [runs[0].name]
    assert "measured otherwise" in collected.left_out[runs[1].name]
    assert collected.heldout(runs[2]) == {} and "metrics.jsonl, line 1" in collected.left_out[runs[2].name]
    assert "frontier.json cannot be read" in collected.left_out[runs[2].name]


def test_a_reward_or_a_metric_that_is_no_number_is_left_out_and_said(tmp_path: Path) -> None:
    runs = [trained(tmp_path, "dpo", 0.1, seed, reward=0.3, kl=1.0) for seed in (1, 2)]
    file = runs[1].results["frontier"] / "frontier.json"
    record = json.loads(file.read_text())
    record["rows"] = [{**record["rows"][0], "reward": math.nan}, {**record["rows"][0], "step": 1, "kl": math.inf}]
    file.write_text(json.dumps(record))
    metrics = {"step": 1, "split": "final", **heldout(0.5), "sparsity/reward_mask/rejected": math.nan}
    (runs[1].run / "metrics.jsonl").write_text(json.dumps(metrics))
    collected = Collected(experiment(*runs))
    assert [point.run.name for point in collected.points("frontier")] == [runs[0].name]
    assert collected.left_out == {runs[1].name: "frontier: a KL or a reward is no number"}
    assert collected.sparsity(runs[1], "reward_mask") == pytest.approx(0.6), "the chosen side's"


def test_samples_of_another_seed_are_no_other_measurement(tmp_path: Path) -> None:
    runs = [trained(tmp_path, "dpo", 0.1, seed, reward=0.3, kl=1.0) for seed in (1, 2)]
    file = runs[1].results["frontier"] / "frontier.json"
    record = json.loads(file.read_text())
    record["settings"]["seed"] = 99
    file.write_text(json.dumps(record))
    assert len(Collected(experiment(*runs)).points("frontier")) == 2


def test_the_final_point_is_the_models_that_the_run_ended_with(tmp_path: Path) -> None:
    run = trained(tmp_path, "dpo", 0.1, 1, reward=0.3, kl=1.0)
    file = run.results["frontier"] / "frontier.json"
    record = json.loads(file.read_text())
    [row] = record["rows"]
    record["rows"] = [row, {**row, "step": 100, "reward": 0.1}, {**row, "step": 200, "reward": 0.2}]
    file.write_text(json.dumps(record))
    assert Collected(experiment(run)).final_points("frontier")[run.name].reward == pytest.approx(0.3)
    record["rows"] = record["rows"][1:]
    file.write_text(json.dumps(record))
    assert Collected(experiment(run)).final_points("frontier")[run.name].reward == 0.2


def test_the_best_checkpoints_metrics_are_the_final_ones(tmp_path: Path) -> None:
    rows = [
        {"step": 5, "split": "eval", **heldout(0.5)}, {"step": 9, "split": "eval", **heldout(0.7)},
        {"step": 5, "split": "final", **heldout(0.5)},
    ]  # fmt: skip
    run = replace(bare("sparsepo_common"), run=write_run(tmp_path / "run", rows))
    assert Collected(experiment(run)).sparsity(run, "reward_mask") == pytest.approx(0.5)
    assert Collected(experiment(run)).sparsity(run, "divergence_mask") == pytest.approx(0.25)

"""An experiment's file becomes stages: what they are called, share, read and depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.files.graph import stages_of
from sparsepo_dist.experiments.files.runs import CHECKOUT
from sparsepo_dist.experiments.files.spec import ExperimentFile, read_experiment
from sparsepo_dist.experiments.stages.stage import Stage
from sparsepo_dist.experiments.stages.work import Work

RECIPE = str(CHECKOUT / "launch" / "recipes" / "sentiment.yaml")
SMALL: dict[str, Any] = {
    "name": "small",
    "base": {"recipe": RECIPE},
    "methods": {"dpo": {"options": {"objective.name": "dpo"}}},
}


def experiment(folder: Path, **fields: Any) -> ExperimentFile:
    """SMALL with some fields changed."""
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **fields}, sort_keys=False))
    return read_experiment(file, CHECKOUT / "evaluation")


def stages(folder: Path, **fields: Any) -> dict[str, Stage]:
    """Its stages by name."""
    return {stage.name: stage for stage in stages_of(experiment(folder, **fields), {})}


def test_a_run_for_each_point_and_seed_and_methods_may_have_their_own(tmp_path: Path) -> None:
    methods = {
        "dpo": {"options": {"objective.name": "dpo"}},
        "simpo": {"options": {"objective.name": "simpo"}, "grid": {"objective.gamma": [0.3, 1]}, "seeds": [1]},
        "last": {"options": {"masks.layers": "last"}, "grid": {}},
    }
    found = stages(tmp_path, methods=methods, grid={"objective.beta": [0.1, "1e-2"]}, seeds=[1, 2])
    assert list(found) == [
        "dpo-beta0.1-seed1", "dpo-beta0.1-seed2", "dpo-beta0.01-seed1", "dpo-beta0.01-seed2",
        "simpo-gamma0.3-seed1", "simpo-gamma1-seed1", "last-seed1", "last-seed2",
    ]  # fmt: skip
    assert {"--objective.beta=0.01", "--training.seed=2", "--objective.name=dpo"} <= set(
        found["dpo-beta0.01-seed2"].command
    )


def test_runs_share_a_cache_where_it_would_hold_the_same(tmp_path: Path) -> None:
    methods = {
        "dpo": {"options": {"objective.name": "dpo"}},
        "dpop": {"options": {"objective.name": "dpop", "objective.penalty": 5, "training.learning_rate": 1e-5}},
        "tdpo1": {"options": {"objective.name": "tdpo1"}},
        "last": {"options": {"masks.layers": "last"}},
        "short": {"options": {"objective.name": "dpo", "data.max_length": 64}},
        "simpo": {"options": {"objective.name": "simpo"}},
        "all": {"cache": "all_layers"},
    }
    found = stages(tmp_path, methods=methods, grid={"objective.beta": [1, 2]}, seeds=[1, 2], cache=True)
    by_method: dict[str, set[str]] = {name: set() for name in methods}
    for stage in found.values():
        if stage.kind == "train":
            by_method[stage.name.partition("-")[0]].add(" ".join(stage.needs))
    assert all(len(caches) == 1 for caches in by_method.values()), "neither beta nor the seed decides what is cached"
    assert by_method["dpo"] == by_method["dpop"] and by_method["tdpo1"] == by_method["last"]
    assert by_method["simpo"] == {""}, "it has no reference"
    assert len({*by_method["dpo"], *by_method["tdpo1"], *by_method["short"], *by_method["all"]}) == 4
    assert "--all_layers=true" in found[by_method["all"].pop()].command
    with pytest.raises(UserError, match=r"line 5: methods.masked: masks.layers: all needs .* `cache: all_layers`"):
        stages(tmp_path, methods={"masked": {"options": {"objective.beta": 1}}}, cache=True)


FRONTIER = {"frontier": {"prompt_count": 4, "seed": "{training.seed}"}}


def test_what_a_frontier_is_measured_from_is_measured_once_for_each_of_its_settings(tmp_path: Path) -> None:
    methods = {"dpo": {"options": {"objective.name": "dpo"}}, "simpo": {"options": {"objective.name": "simpo"}}}
    found = stages(tmp_path, methods=methods, grid={"objective.beta": [1, 2]}, seeds=[1, 2], suites=FRONTIER)
    starts = {name: stage for name, stage in found.items() if name.startswith("start-")}
    assert [[word for word in start.command if "seed" in word] for start in starts.values()] == [
        ["--seed=1"], ["--seed=2"],
    ]  # fmt: skip
    for name, start in starts.items():
        used = [stage for stage in found.values() if name in stage.needs]
        assert len(used) == 4 and all(f"--reference_results={{{name}}}" in stage.command for stage in used)
        assert "--reference=builtin:smollm2-135m-instruct" in start.command


def test_the_start_that_the_file_trains_is_measured_from_itself_and_the_others_from_it(tmp_path: Path) -> None:
    sft = {"recipe": RECIPE, "options": {"objective.name": "sft", "training.seed": 1}}
    found = stages(tmp_path, sft=sft, seeds=[1, 2], suites=FRONTIER)
    assert {"sft={sft}/final", "--reference={sft}/final", "--seed=1"} <= set(found["sft/frontier"].command)
    assert "--model.path={sft}/final" in found["dpo-seed1"].command
    assert set(found["dpo-seed1/frontier"].needs) == {"dpo-seed1", "sft", "sft/frontier"}
    (other,) = (name for name in found if name.startswith("start-"))
    assert other in found["dpo-seed2/frontier"].needs and "--seed=2" in found[other].command


def test_what_a_stage_does_not_use_leaves_its_identity(tmp_path: Path) -> None:
    def identities(**fields: Any) -> dict[str, str]:
        return Work(list(stages(tmp_path, **fields).values()), tmp_path / "stages").identities

    before = identities(suites=FRONTIER)
    methods = {**SMALL["methods"], "tdpo1": {"options": {"objective.name": "tdpo1"}}}
    after = identities(suites={**FRONTIER, "other": {"driver": "frontier", "prompt_count": 5}}, methods=methods)
    assert {name: after[name] for name in before} == before
    changed = identities(suites={"frontier": {**FRONTIER["frontier"], "top_p": 0.5}})
    assert changed["dpo"] == before["dpo"] and changed["dpo/frontier"] != before["dpo/frontier"]


def test_what_is_selected_has_further_suites_and_seeds_and_its_start_has_the_suites(tmp_path: Path) -> None:
    sft = {"recipe": RECIPE, "options": {"objective.name": "sft"}}
    suites = {"tune": {"driver": "frontier", "prompt_count": 2}}
    fields = {
        "sft": sft, "grid": {"objective.beta": [1, 2]}, "seeds": [1], "suites": suites,
        "select": {"suite": "tune", "metric": "reward", "seeds": [1, 2]}, "selected_suites": {"frontier": {}},
    }  # fmt: skip
    file = experiment(tmp_path, **fields)
    before, after = ({stage.name: stage for stage in stages_of(file, c)} for c in ({}, {"dpo": {"objective.beta": 2}}))
    assert [name for name in before if name.endswith("/frontier")] == ["sft/frontier"]
    assert not any(stage.temporary for stage in before.values()), "the weights of who will win are still needed"
    assert [name for name in after if name not in before] == [
        "dpo-beta2-seed1/frontier", "dpo-beta2-seed2", "dpo-beta2-seed2/tune", "dpo-beta2-seed2/frontier",
    ]  # fmt: skip
    assert after["dpo-beta1-seed1"].temporary == ("final", "checkpoints", "exported")


def test_points_one_by_one_stand_for_a_grid_and_seeds(tmp_path: Path) -> None:
    runs = [{"objective.beta": 1}, {"objective.beta": 2, "training.seed": 7}]
    found = stages(tmp_path, methods={"dpo": {"runs": runs}}, grid={"objective.beta": [5]}, seeds=[1])
    assert list(found) == ["dpo-beta1", "dpo-beta2-seed7"]


def test_values_that_are_paths_or_name_stages_leave_runs_a_plain_name(tmp_path: Path) -> None:
    prepare = {"name": "dialogue", "options": {"train": "builtin:dialogues"}}
    grid = {"data.train": ["{prepare}/train.jsonl", "other/rows.jsonl"]}
    found = stages(tmp_path, prepare=prepare, grid=grid, suites={"frontier": {}})
    runs = [name for name, stage in found.items() if stage.kind == "train"]
    assert runs == ["dpo-train-prepare-train.jsonl", "dpo-trainother-rows.jsonl"]
    assert found[runs[0]].configuration["data.train"] == "{prepare}/train.jsonl"
    assert f"dpo={{{runs[0]}}}" in found[f"{runs[0]}/frontier"].command

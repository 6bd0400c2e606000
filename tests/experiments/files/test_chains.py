"""Runs that need other runs of their experiment: rounds on their own responses, oracles, starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.stages.work import Work
from tests.experiments.files.test_graph import FRONTIER, experiment, stages

ROUNDS = {
    "count": 3,
    "prepare": {
        "name": "pairs",
        "options": {"prompts": "{prepare}/train.jsonl", "model": "{previous}", "scorer": "vader",
                    "seed": "{training.seed}"},
    },
    "options": {"training.learning_rate": 1e-6},
}  # fmt: skip
PREPARE = {"name": "sentiment", "options": {"texts": "builtin:prompts", "model": "builtin:smollm2-135m-instruct",
                                            "scorer": "vader"}}  # fmt: skip


def test_each_round_trains_on_the_policys_own_pairs_and_from_it(tmp_path: Path) -> None:
    found = stages(tmp_path, rounds=ROUNDS, prepare=PREPARE, seeds=[1, 2], suites=FRONTIER)
    trained = [name for name, stage in found.items() if stage.kind == "train"]
    assert trained == [
        "dpo-seed1", "dpo-seed2", "dpo_round2-seed1", "dpo_round2-seed2", "dpo_round3-seed1", "dpo_round3-seed2",
    ]  # fmt: skip
    pairs, second, third = (found[name] for name in ("prepare-dpo_round2-seed2", trained[3], trained[5]))
    assert {"--model={dpo-seed2}", "--prompts={prepare}/train.jsonl", "--seed=2"} <= set(pairs.command)
    assert set(pairs.needs) == {"prepare", "dpo-seed2"}
    assert {
        "--model.path={dpo-seed2}/final", "--data.train={prepare-dpo_round2-seed2}/train.jsonl",
        "--data.heldout={prepare}/heldout.jsonl", "--training.learning_rate=1e-06",
    } <= set(second.command)  # fmt: skip
    assert set(second.needs) == {"prepare", "dpo-seed2", "prepare-dpo_round2-seed2"}
    assert "--model.path={dpo_round2-seed2}/final" in third.command
    assert "--model={dpo_round2-seed2}" in found["prepare-dpo_round3-seed2"].command


def test_the_kl_of_every_round_is_measured_from_what_the_first_began_from(tmp_path: Path) -> None:
    sft = {"recipe": "launch/recipes/sentiment/sft.yaml", "options": {"model.path": "gpt2"}}
    found = stages(tmp_path, rounds=ROUNDS, prepare=PREPARE, sft=sft, seeds=[1], suites=FRONTIER)
    assert "--reference={sft}/final" in found["dpo_round3-seed1/frontier"].command
    assert not any(word.startswith("--reference=") for word in found["dpo-seed1/frontier"].command)
    measured = [
        word for name, stage in found.items() for word in stage.command
        if name.startswith("dpo") and word.startswith("--reference_results=")
    ]  # fmt: skip
    (start,) = [name for name in found if name.startswith("start")]
    assert "--reference={sft}/final" in found[start].command, "the start is held against itself"
    assert measured == [f"--reference_results={{{start}}}"] * 3
    assert {"dpo-seed1", "dpo_round2-seed1", "sft"} <= set(found["dpo_round2-seed1/frontier"].needs)


def test_a_change_of_the_first_round_runs_what_comes_after_it_again(tmp_path: Path) -> None:
    def identities(**fields: Any) -> dict[str, str]:
        own = {**ROUNDS, "options": {"objective.beta": 0.1}}  # what is changed below is the first round's alone
        file = stages(tmp_path, rounds=own, prepare=PREPARE, seeds=[1], **fields)
        return Work(list(file.values()), tmp_path / "stages", "version").identities

    before = identities()
    after = identities(methods={"dpo": {"options": {"objective.name": "dpo", "objective.beta": 0.3}}})
    same = {name for name in before if before[name] == after[name]}
    assert same == {"prepare"} and before.keys() == after.keys()


def test_a_methods_name_stands_for_its_run_of_the_same_values(tmp_path: Path) -> None:
    methods = {
        "dpo": {"options": {"objective.name": "dpo"}},
        "swapped": {"options": {"objective.name": "dpo", "data.swap": True}, "grid": {}},
        "tis": {"options": {
            "objective.name": "tis_dpo", "oracle.path": "{dpo}/final", "oracle_against.path": "{swapped}/final",
        }},
    }  # fmt: skip
    found = stages(tmp_path, methods=methods, grid={"objective.beta": [0.1, 0.5]}, seeds=[1, 2], cache=True)
    tis = found["tis-beta0.5-seed2"]
    cache = next(stage for stage in found.values() if stage.name in tis.needs and stage.kind == "cache")
    for stage in (tis, cache):
        assert {"--oracle.path={dpo-beta0.5-seed2}/final", "--oracle_against.path={swapped-seed2}/final"} <= set(
            stage.command
        )
        assert {"dpo-beta0.5-seed2", "swapped-seed2"} <= set(stage.needs)
    folders = Work(list(found.values()), tmp_path / "stages", "version")
    assert f"--oracle.path={folders.output('dpo-beta0.5-seed2')}/final" in folders.commands["tis-beta0.5-seed2"]


def test_a_method_may_prepare_its_own_data(tmp_path: Path) -> None:
    own = {"name": "pairs", "options": {"prompts": "p.jsonl", "model": "gpt2", "scorer": "vader"}}
    found = stages(tmp_path, methods={"dpo": {"options": {"objective.name": "dpo"}, "prepare": own}}, seeds=[1])
    assert list(found) == ["prepare-dpo-seed1", "dpo-seed1"]
    assert "--data.train={prepare-dpo-seed1}/train.jsonl" in found["dpo-seed1"].command


LATER = {"tgdpo": {"options": {"objective.name": "tgdpo", "oracle.path": "{dpo}/final"}}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a run behind": (
        {"methods": {**LATER, "dpo": {"options": {"objective.name": "dpo"}}}},
        r"line \d+: methods.tgdpo: \{dpo\} must stand for one run of a method before it.*found none",
    ),
    "several runs": (
        {"methods": {"dpo": {"options": {"objective.name": "dpo"}, "grid": {"objective.beta": [1, 2]}}, **LATER}},
        "found dpo-beta1, dpo-beta2",
    ),
    "selection": (
        {"rounds": ROUNDS, "prepare": PREPARE, "suites": FRONTIER, "select": {"suite": "frontier", "metric": "reward"}},
        r"line \d+: select: dpo_round2 needs another run",
    ),
    "no count": ({"rounds": {"prepare": ROUNDS["prepare"]}}, "rounds.count is missing"),
    "adapters": (
        {"rounds": ROUNDS, "prepare": PREPARE, "methods": {"dpo": {"options": {"model.adapter": "lora"}}}},
        r"line \d+: methods.dpo: rounds start from whole models, and its runs leave adapters \(model.adapter: lora\)",
    ),
    "one round": ({"rounds": {**ROUNDS, "count": 1}}, r"line \d+: rounds.count: 1 must be at least 2"),
    "no such preparation": ({"rounds": {"count": 2, "prepare": {"name": "pears"}}}, "rounds.prepare.name: 'pears'"),
    "its options": (
        {"rounds": {"count": 2, "prepare": {"name": "pairs", "options": {"promts": "p"}}}},
        "rounds.prepare.options: `sparsepo prepare pairs` does not take them",
    ),
    "no such field": (
        {"rounds": {"count": 2, "prepare": {"name": "pairs", "options": {"seed": "{sede}"}}}},
        r"rounds.prepare: \{sede\} is neither prepare, sft, a method nor a field of runs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    fields, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        experiment(tmp_path, **fields)

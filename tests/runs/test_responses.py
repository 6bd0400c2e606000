"""Rows of several responses through a run: what is inspected is what it has, and what it trains on when it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.data.tokens.keys import pair_key
from sparsepo_dist.errors import UserError
from sparsepo_dist.inspection.run import inspect_data
from tests.runs.test_mixtures import base, configured, load
from tests.support import chats
from tests.support.chats import assistant, user
from tests.support.runs import ZERO, metrics
from tests.support.scenarios import outcome, play, scenario

__all__ = ["base"]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sampled(number: int) -> dict[str, Any]:
    """A row of one to three chosen and one or two rejected responses, some of them long."""
    word = "abcdefg"[number % 7]
    chosen = [f" yes {i}" + word * (number % 5) for i in range(1 + number % 3)]
    rejected = [f" no {i}" + word * (9 * (number % 4)) for i in range(1 + number % 2)]
    return {"prompt": f"{number} {word}", "chosen": chosen, "rejected": rejected}


@pytest.mark.parametrize("on_long", ["cut", "drop"])
@pytest.mark.parametrize("objective", ["dpo", "sft"])
@pytest.mark.parametrize("heldout", [0, 5])
def test_a_run_has_what_is_inspected(
    base: Path, tmp_path: Path, objective: str, on_long: str, heldout: int
) -> None:  # fmt: skip
    files = [write(tmp_path / f"{first}.jsonl", [sampled(first + i) for i in range(20)]) for first in (0, 50)]
    train = [files[0], {"source": files[1], "weight": 0.25}]
    fields = {
        "objective.name": objective, "data.heldout_pairs": heldout, "data.max_length": 32, "data.on_long": on_long,
    }  # fmt: skip
    found, inputs = inspect_data(configured(base, train, **fields), colours=False), load(base, train, **fields)
    keys = [pair_key(pair) for pair in inputs.train]
    assert objective == "sft" or on_long == "cut" or inputs.origins["train"][0]["pairs"] < 20
    if on_long == "drop":
        assert [key for key in found.train.pair_key.tolist() if key in keys] == keys
    rows = [part["computed"]["pairs"] for part in (found.summary["train"], found.summary.get("heldout")) if part]
    assert rows == [inputs.train.rows, heldout][: len(rows)] and inputs.heldout.rows == heldout
    taken = [sum(part["taken"] for part in parts) for parts in zip(*filter(None, inputs.origins.values()), strict=True)]
    assert taken[1] == taken[0] // 3, "weights are shares of rows"
    places = [pair.place for pair in inputs.train]
    assert not {pair.place for pair in inputs.heldout} & set(places) and len(places) > len(set(places))


def test_tokens_of_an_epoch_are_those_of_one_pair_of_each_row(base: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": [" a", " abc"], "rejected": " b"},
        {"prompt": "p", "chosen": " a", "rejected": " b"},
    ]
    found = inspect_data(configured(base, write(tmp_path / "rows.jsonl", rows)), colours=False)
    both = [found.train.prompt[0] + chosen - 1 + found.train.rejected[0] - 1 for chosen in found.train.chosen]
    computed = found.summary["train"]["computed"]
    assert computed["pairs"] == 2
    assert computed["layouts"]["prefix_shared"]["tokens"] == (both[0] + both[1]) / 2 + both[2]


def test_a_dialogue_of_which_nothing_is_left_to_train_on_is_told_by_inspection(base: Path, tmp_path: Path) -> None:
    rows = [
        {"messages": [user("Hi"), assistant(answer, reasoning_content="So. " * thoughts)]}
        for answer, thoughts in (("Yes.", 2), ("No.", 20))
    ]
    source, template = write(tmp_path / "chats.jsonl", rows), tmp_path / "template.jinja"
    template.write_text(chats.SWITCHED)
    fields = {
        "objective.name": "sft", "data.train_on_reasoning": False, "data.max_length": 80,
        "data.chat_template": template,
    }  # fmt: skip
    with pytest.raises(UserError, match="row 2: nothing is left of a response that is trained on"):
        load(base, source, **fields)
    found = inspect_data(configured(base, source, **fields), colours=False).summary
    assert found["stops"] == ["the limits leave nothing that is trained on in 1 pairs (data.on_bad_row: stop)"]
    assert [one["untrained"] for one in found["train"]["limits"]] == [1, *[0] * (len(found["train"]["limits"]) - 1)]
    fields["data.on_bad_row"] = "skip"
    assert len(load(base, source, **fields).train) == 1
    found = inspect_data(configured(base, source, **fields), colours=False).summary
    assert not found["stops"] and found["train"]["computed"]["pairs"] == 1


@pytest.mark.slow
def test_pairs_are_drawn_afresh_each_epoch_and_alike_when_a_run_goes_on(base: Path, tmp_path: Path) -> None:
    rows = [sampled(number) for number in range(6)]
    fields = {
        "model.path": base / "model", "data.train": write(tmp_path / "rows.jsonl", rows), "data.max_length": 64,
        "data.heldout": write(tmp_path / "heldout.jsonl", rows[:2]), "objective.name": "dpo", "ds_config": ZERO[0],
        "training.pairs_per_step": 6, "training.epochs": 4, "training.learning_rate": 1e-9,
        "training.precision": "fp32", "training.evaluate_every": 2,
    }  # fmt: skip
    stopped = {**fields, "resume": "auto"}
    fault = {"kind": "SIGTERM", "step": 2, "during": "optimizer step", "rank": 0}
    each = [(row, one, other) for row in rows for one in row["chosen"] for other in row["rejected"]]
    flat = [{**row, "chosen": one, "rejected": other} for row, one, other in each]
    other = {**stopped, "data.train": write(tmp_path / "flat.jsonl", flat)}
    plan = [
        scenario("whole", tmp_path, fields), scenario("stopped", tmp_path, stopped, fault, run="cut"),
        scenario("other", tmp_path, other, run="cut"), scenario("resumed", tmp_path, stopped, run="cut"),
    ]  # fmt: skip
    assert play(tmp_path, plan).returncode == 0
    assert outcome(tmp_path, "stopped")["error"] == "StoppedError"
    assert "data.train is not what" in outcome(tmp_path, "other")["message"], "the same pairs, each a row"
    assert outcome(tmp_path, "resumed")["error"] is None
    found = metrics(tmp_path / "whole")
    assert metrics(tmp_path / "cut") == found
    sums = [(row["split"], *(round(row[f"logps/{side}"], 3) for side in ("chosen", "rejected"))) for row in found]
    assert len({of for of in sums if of[0] == "train"}) == 4, "each epoch has other pairs"
    assert len({of for of in sums if of[0] == "eval"}) == 1, "held-out pairs stay the same"

"""A run on several sources: what it is given, what it says of them, and what may change when it goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.tokens.keys import pair_key
from sparsepo_dist.errors import UserError
from sparsepo_dist.inspection.run import inspect_data
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.inputs import Inputs, check_builtin_names, load_inputs
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.resumption import check_same_run, identity
from tests.support.runs import ZERO
from tests.support.tiny import save_tiny_model, write_pairs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model; twelve pairs, and eight others."""
    folder = tmp_path_factory.mktemp("mixtures")
    save_tiny_model(folder / "model")
    write_pairs(folder / "a.jsonl", 12)
    write_pairs(folder / "b.jsonl", 8, seed=1)
    (folder / "ds.json").write_text(json.dumps(ZERO[2]))
    return folder


def configured(base: Path, train: Any, **fields: Any) -> RunConfig:
    given = {
        "model.path": base / "model", "ds_config": base / "ds.json", "data.max_length": 100, "objective.name": "dpo",
        "data.train": train if isinstance(train, str) else json.dumps(train), **fields,
    }  # fmt: skip
    return parse_train([f"--{name}={value}" for name, value in given.items()])


def load(base: Path, train: Any, **fields: Any) -> Inputs:
    return load_inputs(configured(base, train, **fields))


def from_files(pairs: Any) -> list[tuple[str, int]]:
    """File and number of the rows of some pairs."""
    places = [pair.place.rpartition(", row ") for pair in pairs]
    return [(Path(file).stem, int(number)) for file, _, number in places]


def test_sources_are_taken_as_the_list_says_and_it_is_told(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    mixed = load(base, [f"{base}/a.jsonl[:9]", {"source": f"{base}/b.jsonl", "weight": 0.25}])
    places = from_files(mixed.train)
    assert places[:9] == [("a", number) for number in range(1, 10)]
    assert [name for name, _ in places[9:]] == ["b"] * 3
    assert mixed.origins == {
        "train": [
            {"source": f"{base}/a.jsonl[:9]", "rows": 9, "pairs": 9, "taken": 9},
            {"source": f"{base}/b.jsonl", "rows": 8, "pairs": 8, "taken": 3},
        ],
        "heldout": [],
    }
    said = f"data.train: 9 of 9 pairs (9 rows) of {base}/a.jsonl[:9]; 3 of 8 pairs (8 rows) of {base}/b.jsonl"
    assert said in caplog.messages


def test_runs_of_several_seeds_have_the_same_pairs(base: Path) -> None:
    """So that one reference cache serves them all."""
    train = [{"source": f"{base}/{name}.jsonl", "pairs": 5} for name in "ab"]
    first, second = (load(base, train, **{"training.seed": seed}) for seed in (0, 1))
    assert from_files(first.train) == from_files(second.train)
    assert from_files(load(base, train, **{"data.mixture_seed": 1}).train) != from_files(first.train)


def test_pairs_held_out_of_a_mixture_are_of_each_source(base: Path) -> None:
    mixed = load(base, [f"{base}/a.jsonl", f"{base}/b.jsonl"], **{"data.heldout_pairs": 5})
    assert from_files(mixed.heldout) == [("a", 10), ("a", 11), ("a", 12), ("b", 7), ("b", 8)]
    assert len(mixed.train) == 15
    with pytest.raises(UserError, match="data.heldout_pairs: 20 leaves no training pair of 20"):
        load(base, [f"{base}/a.jsonl", f"{base}/b.jsonl"], **{"data.heldout_pairs": 20})
    listed = load(base, f"{base}/a.jsonl", **{"data.heldout": json.dumps([{"source": f"{base}/b.jsonl", "pairs": 3}])})
    assert len(listed.heldout) == 3 and listed.origins["heldout"][0]["taken"] == 3


@pytest.mark.parametrize("heldout", [0, 4])
@pytest.mark.parametrize("length", [40, 100])
def test_what_is_inspected_is_what_a_run_trains_on(base: Path, length: int, heldout: int) -> None:
    train = [f"{base}/a.jsonl", {"source": f"{base}/b.jsonl", "weight": 0.25}]
    fields = {"data.heldout_pairs": heldout, "data.max_length": length, "data.on_long": "drop"}
    found, inputs = inspect_data(configured(base, train, **fields), colours=False), load(base, train, **fields)
    keys, dropped = [pair_key(pair) for pair in inputs.train], 12 - inputs.origins["train"][0]["pairs"]
    assert 12 > dropped >= 0 and (dropped > 0) == (length == 40)
    assert [key for key in found.train.pair_key.tolist() if key in keys] == keys
    assert len(found.train) == len(keys) + dropped  # of the source that is taken whole
    assert found.summary["train"]["computed"]["pairs"] == len(keys)
    assert found.summary.get("heldout", {"pairs": 0})["pairs"] == len(inputs.heldout) == heldout
    first = inputs.tokenizer.decode(inputs.train[0].chosen_ids, skip_special_tokens=True).strip()
    assert first in found.shown[0]


def test_another_mixture_is_other_data_when_a_run_goes_on(base: Path, tmp_path: Path) -> None:
    train = [f"{base}/a.jsonl", {"source": f"{base}/b.jsonl", "pairs": 5}]
    state = identity(load(base, train), tmp_path)
    checkpoint: Any = SimpleNamespace(folder=tmp_path, state=lambda: state)
    check_same_run(checkpoint, identity(load(base, train), tmp_path), changed_data=False)
    as_one = [*train[:1], {"source": f"{base}/b.jsonl", "pairs": 4}]
    for other in (as_one, list(reversed(train)), f"{base}/a.jsonl"):
        with pytest.raises(UserError, match="data.train is not what"):
            check_same_run(checkpoint, identity(load(base, other), tmp_path), changed_data=False)
    with pytest.raises(UserError, match="data.mixture_seed is 1 now and 0 there"):
        again = load(base, train, **{"data.mixture_seed": 1})
        check_same_run(checkpoint, identity(again, tmp_path), changed_data=False)


def test_the_built_in_pairs_may_be_one_source_of_several(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = SimpleNamespace(train=base / "a.jsonl", heldout=base / "b.jsonl")
    monkeypatch.setattr("sparsepo_dist.builtin.pairs.sentiment_files", lambda: files)
    both = load(base, ["builtin:sentiment", {"source": f"{base}/b.jsonl", "pairs": 3}])
    assert len(both.train) == 15 and not both.heldout and both.config.data.train[0] == str(base / "a.jsonl")
    named = load(base, [{"source": "builtin:sentiment", "pairs": 3}], **{"data.heldout": "builtin:sentiment"})
    assert (len(named.train), len(named.heldout)) == (3, 8)
    assert len(load(base, "builtin:sentiment").heldout) == 8
    with pytest.raises(UserError, match="data.train: builtin:poems is not built in; there is builtin:sentiment"):
        check_builtin_names(parse_train(["--data.train", "[builtin:sentiment, builtin:poems]"]))


def test_an_objective_without_rejected_responses_takes_a_mixture(base: Path) -> None:
    train = [f"{base}/a.jsonl", {"source": f"{base}/b.jsonl", "pairs": 5}]
    plain, tuned = load(base, train), load(base, train, **{"objective.name": "sft"})

    def without(pair: TokenizedPair) -> TokenizedPair:
        return dataclasses.replace(pair, rejected_ids=(), scores=None)

    assert list(tuned.train) == list(map(without, plain.train))

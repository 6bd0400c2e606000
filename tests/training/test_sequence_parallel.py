"""One step gives the same parameters and metrics, whether one rank has a micro-batch's tokens or two share them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support.runs import ZERO, assert_same_curve, metrics, train_all
from tests.support.tiny import save_tiny_model, write_pairs
from tests.training.test_same_update import EPS, LEARNING_RATE, TOLERANCE

pytestmark = pytest.mark.slow  # three launches, which every test here reads from

MAPO = {"objective.name": "mapo"}
LORA = {"model.adapter": "lora", "lora.rank": 2, "reference.placement": "adapter"}
# By name: what both runs have, and what only the one on two ranks has.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "zero0": ({"reference.placement": "replicated"}, {"ds_config": ZERO[0]}),
    "zero2": ({}, {"ds_config": ZERO[2], "data.tokens_per_micro_batch": 90}),
    "zero3": ({}, {"ds_config": ZERO[3], "model.activation_checkpointing": True}),
    "packed": ({"data.layout": "packed"}, {"ds_config": ZERO[3], "model.activation_checkpointing": "selective"}),
    "blockwise": ({"model.attention": "blockwise"}, {"ds_config": ZERO[2]}),
    "neox_mapo": ({"model.path": "gpt_neox", **MAPO}, {"ds_config": ZERO[3], "reference.placement": "sharded"}),
    "lora": (LORA, {"ds_config": ZERO[2]}),
    "lora_zero3": (LORA, {"ds_config": ZERO[3]}),
    "kto": ({"objective.name": "kto"}, {"ds_config": ZERO[3], "data.tokens_per_micro_batch": 90}),
    "long_prompts": (
        {"data.train": "long_prompts.jsonl", "data.tokens_per_micro_batch": 90, "masks.init": "calibrated"},
        {"ds_config": ZERO[3]},
    ),
    "oracle": ({"objective.name": "tgdpo", "oracle.path": "gpt_neox", "oracle.prompt": "ab"}, {"ds_config": ZERO[2]}),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("sequence_parallel")
    for family in ("llama", "gpt_neox"):
        save_tiny_model(base / family, family)
    write_pairs(base / "pairs.jsonl", 7)
    # With one pair a micro-batch, the first rank has none of its response tokens.
    rows = [{"prompt": "a long prompt " * 4, "chosen": " yes", "rejected": f" n{'o' * i}"} for i in range(7)]
    (base / "long_prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common: dict[str, Any] = {
        "model.path": "llama", "data.train": "pairs.jsonl", "data.max_length": 100,
        "data.tokens_per_micro_batch": 100000, "data.layout": "prefix_shared", "objective.name": "sparsepo",
        "ds_config": ZERO[0], "training.pairs_per_step": 7, "training.max_steps": 1,
        "training.learning_rate": LEARNING_RATE, "training.eps": EPS, "training.schedule": "constant",
        "training.warmup_ratio": 0, "training.precision": "fp32",
    }  # fmt: skip
    shared: dict[str, Any] = {"training.sequence_parallel": 2}
    one = {name: {**common, **both} for name, (both, _) in CASES.items()}
    two = {f"{name}_two": {**one[name], **shared, **changes} for name, (_, changes) in CASES.items()}
    two["whole_two"] = {**two["zero3_two"], "training.max_steps": 2, "checkpoints.every_steps": 1}
    four = {
        "zero3_four": {**one["zero3"], **shared, "ds_config": ZERO[3]},
        # Of the keys' two heads each rank of four needs one.
        "zero2_four": {**one["zero2"], "training.sequence_parallel": 4, "ds_config": ZERO[2]},
    }
    for run in (*one.values(), *two.values(), *four.values()):
        for field in ("model.path", "oracle.path", "data.train"):
            if field in run:
                run[field] = base / run[field]
    found = train_all(base / "one", one) | train_all(base / "two", two, ranks=2)
    shutil.copytree(found["whole_two"], base / "whole")
    again = {**two["whole_two"], "resume": found["whole_two"] / "checkpoints" / "step-00000001"}
    resumed = train_all(base / "two", {"whole_two": again}, ranks=2)
    return {
        **found,
        **train_all(base / "four", four, ranks=4),
        "whole": base / "whole",
        "resumed": resumed["whole_two"],
    }


@pytest.mark.parametrize("name", [*(f"{name}_two" for name in CASES), "zero2_four", "zero3_four"])
def test_update_and_metrics_are_those_of_one_rank(folders: dict[str, Path], name: str) -> None:
    plain, other = folders[name.rpartition("_")[0]], folders[name]
    files = sorted(file.name for file in (plain / "final").glob("*.safetensors"))
    assert files
    for file in files:
        want, got = load_file(plain / "final" / file), load_file(other / "final" / file)
        assert want.keys() == got.keys()
        for key in want:
            assert (want[key] - got[key]).abs().max().item() <= TOLERANCE, key
    assert_same_curve(other, plain, tolerance=2e-5)


def test_a_resumed_run_ends_as_the_whole_one(folders: dict[str, Path]) -> None:
    whole, resumed = folders["whole"], folders["resumed"]
    for file in (whole / "final").glob("*.safetensors"):
        assert file.read_bytes() == (resumed / "final" / file.name).read_bytes()
    assert metrics(resumed)[-1] == metrics(whole)[-1]

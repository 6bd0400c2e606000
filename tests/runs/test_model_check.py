"""Before the first step a run holds what training computes against the model's own forward and logits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.checked import LeakingConfig, LeakingForCausalLM
from tests.support.runs import ZERO, launch, train_all
from tests.support.tiny import CONFIGS, save_drawn, save_tiny_model, write_pairs

ROUNDING = 1e-5  # in fp32, nats a token


def save_leaking(folder: Path, **faults: Any) -> Path:
    torch.manual_seed(0)
    values = {**CONFIGS["llama"].to_dict(), "vocab_size": 272, "tie_word_embeddings": False}
    model = LeakingForCausalLM(LeakingConfig(**{**values, "model_type": "leaking", **faults}))
    return save_drawn(model, folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("model_check")
    for family in ("llama", "gptj", "gpt_neox"):
        save_tiny_model(base / family, family)
    save_tiny_model(base / "other", "llama", seed=1)
    save_leaking(base / "leaking", leak=True)
    save_leaking(base / "gaining", gain=3.0)
    write_pairs(base / "pairs.jsonl", 12)
    return base


def said(base: Path, runs: dict[str, dict[str, Any]], ranks: int) -> dict[str, list[dict[str, Any]]]:
    """By run: what each rank said."""
    commands = {}
    for name, fields in runs.items():
        ds_config = base / f"{name}.ds.json"
        ds_config.write_text(json.dumps(fields["ds_config"]))
        given = {
            "model.path": base / "llama", "data.train": base / "pairs.jsonl", "data.max_length": 100,
            "training.pairs_per_step": 4, "training.precision": "fp32", "output_dir": base / f"{ranks}-{name}",
            **fields, "ds_config": ds_config,
        }  # fmt: skip
        commands[name] = [f"--{field}={value}" for field, value in given.items()]
    plan = base / f"{ranks}.json"
    plan.write_text(json.dumps(commands))
    done = launch(["tests.support.checked", str(plan)], ranks=ranks)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    found = [json.loads(plan.with_suffix(f".{rank}.json").read_text()) for rank in range(ranks)]
    return {name: [one[name] for one in found] for name in runs}


def differences(line: str) -> dict[str, float]:
    """By role: nats a token."""
    return {role: float(value) for role, value in re.findall(r"(\w+) (\S+) of at most", line)}


@pytest.fixture(scope="module")
def alone(base: Path) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, dict[str, Any]] = {
        f"{family} {layout}": {"ds_config": ZERO[0], "model.path": base / family, "data.layout": layout}
        for family in ("llama", "gptj", "gpt_neox")
        for layout in ("prefix_shared", "packed", "padded")
    }
    leaking = {"ds_config": ZERO[0], "model.path": base / "leaking"}
    return said(
        base,
        runs | {
            "another": {"ds_config": ZERO[0], "objective.name": "sepo", "reference.path": base / "other",
                        "oracle.path": base / "gptj"},
            "qlora": {"ds_config": ZERO[2], "model.adapter": "qlora", "training.precision": "bf16"},
            "supervised": {"ds_config": ZERO[0], "objective.name": "sft"},
            "leaking": leaking,
            "leaking bf16": {**leaking, "training.precision": "bf16", "data.layout": "packed"},
            "leaking padded": {**leaking, "data.layout": "padded"},
            "leaking oracle": {"ds_config": ZERO[0], "objective.name": "sepo", "oracle.path": base / "leaking"},
            "gaining": {"ds_config": ZERO[0], "model.path": base / "gaining"},
            "unchecked": {**leaking, "model.check": "false"},
        },
        ranks=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sharded(base: Path) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, dict[str, Any]] = {
        "llama": {}, "padded": {"data.layout": "padded"}, "offload": {"reference.placement": "offload"},
        "replicated": {"reference.placement": "replicated"}, "dpo": {"objective.name": "dpo"},
        "lora": {"model.adapter": "lora", "model.activation_checkpointing": "true"},
        "tied": {"model.path": base / "gptj"}, "leaking": {"model.path": base / "leaking"},
    }  # fmt: skip
    return said(base, {name: {"ds_config": ZERO[3], **fields} for name, fields in runs.items()}, ranks=2)


FAMILIES, LAYOUTS = ("llama", "gptj", "gpt_neox"), ("prefix_shared", "packed", "padded")
RIGHT = [f"{family} {layout}" for family in FAMILIES for layout in LAYOUTS]


@pytest.mark.parametrize("name", [*RIGHT, "leaking padded"])
def test_right_models_pass(alone: dict[str, list[dict[str, Any]]], name: str) -> None:
    (one,) = alone[name]
    assert one["error"] is None
    (line,) = one["lines"]
    found = differences(line)
    assert set(found) == {"policy", "reference"} and max(found.values()) < ROUNDING


@pytest.mark.parametrize("name", ["llama", "padded", "offload", "replicated", "dpo", "lora", "tied"])
def test_right_models_pass_where_they_are_sharded(sharded: dict[str, list[dict[str, Any]]], name: str) -> None:
    first, second = sharded[name]
    assert first["error"] is None and second == {"lines": [], "error": None}  # rank 0 speaks
    found = differences(first["lines"][0])
    assert set(found) == {"policy", "reference"} and max(found.values()) < ROUNDING


def test_every_model_of_a_run_is_asked(alone: dict[str, list[dict[str, Any]]]) -> None:
    assert set(differences(alone["another"][0]["lines"][0])) == {"policy", "reference", "oracle"}
    assert set(differences(alone["qlora"][0]["lines"][0])) == {"policy", "reference"}
    assert set(differences(alone["supervised"][0]["lines"][0])) == {"policy"}


@pytest.mark.parametrize("name", ["leaking", "leaking bf16"])
def test_state_that_leaks_between_sequences_stops_the_run(
    alone: dict[str, list[dict[str, Any]]], base: Path, name: str
) -> None:
    error = alone[name][0]["error"]
    layout = "packed" if "bf16" in name else "prefix_shared"
    assert f"{base / 'leaking'} (LeakingForCausalLM)" in error and f"data.layout {layout}" in error
    assert "pairs.jsonl, row" in error and re.search(r"Token \d+ \('.+'\) of the (chosen|rejected) response", error)
    assert "was tried and is right: --data.layout padded." in error
    assert "--model.check false" in error


def test_all_ranks_stop_alike(sharded: dict[str, list[dict[str, Any]]]) -> None:
    first, second = sharded["leaking"]
    assert first["error"] == second["error"] and "--data.layout padded" in first["error"]


def test_what_no_layout_computes_is_not_supported(alone: dict[str, list[dict[str, Any]]]) -> None:
    assert "this model is not supported" in alone["gaining"][0]["error"]


def test_a_frozen_model_is_named_by_its_role(alone: dict[str, list[dict[str, Any]]], base: Path) -> None:
    assert alone["leaking oracle"][0]["error"].startswith(f"the oracle {base / 'leaking'}")


def test_who_says_so_goes_on(alone: dict[str, list[dict[str, Any]]]) -> None:
    assert alone["unchecked"] == [{"lines": [], "error": None}]


def test_a_run_is_the_same_bit_for_bit_with_and_without(base: Path) -> None:
    common = {
        "ds_config": ZERO[3], "model.path": base / "llama", "data.train": base / "pairs.jsonl", "data.max_length": 100,
        "training.pairs_per_step": 4, "training.max_steps": 3, "training.learning_rate": 1e-2,
        "training.precision": "fp32", "model.adapter": "lora", "lora.dropout": 0.2,
    }  # fmt: skip
    runs = train_all(base / "same", {check: {**common, "model.check": check} for check in ("true", "false")})
    adapters = [run / "final" / "adapter_model.safetensors" for run in runs.values()]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()

"""What a plan says DeepSpeed holds and gathers, against what it does on two ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.plan.model.gathering import persistent
from sparsepo_dist.plan.needs.pieces import policy_gathering
from sparsepo_dist.plan.needs.plan import Plan
from sparsepo_dist.plan.needs.states import MASTER, MOMENTS, frozen_weights, policy_weights, training
from tests.plan.measuring import arguments, predict, write_full_pairs
from tests.support.runs import launch
from tests.support.tiny import save_tiny_model

ZERO_3 = {
    "stage": 3,
    "reduce_bucket_size": "auto",
    "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": "auto",
}
SMALL = {**ZERO_3, "stage3_max_reuse_distance": 20000, "stage3_max_live_parameters": 25000}
RUNS: dict[str, dict[str, Any]] = {
    "stage 3": {"zero": ZERO_3},
    "short reuse": {"zero": SMALL},
    "checkpointing": {"zero": SMALL, "model.activation_checkpointing": "true"},
    "lora": {"zero": SMALL, "model.adapter": "lora", "lora.rank": 4},
    "stage 2": {"zero": {"stage": 2}},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Plan, dict[str, int]]]:
    folder = tmp_path_factory.mktemp("engines")
    fields = {
        name: {
            "model.path": save_tiny_model(folder / "llama"),
            "data.train": write_full_pairs(folder / "pairs.jsonl", 12),
            "data.max_length": 128,
            "data.max_prompt_length": 64,
            "data.tokens_per_micro_batch": 190,
            "training.pairs_per_step": 2,
            "training.precision": "fp32",
            "ds_config": folder / f"{name}.json",
            "output_dir": folder / name,
            **{key: value for key, value in run.items() if key != "zero"},
        }
        for name, run in RUNS.items()
    }
    for name, run in RUNS.items():
        (folder / f"{name}.json").write_text(json.dumps({"zero_optimization": run["zero"]}))
    described = folder / "runs.json"
    described.write_text(json.dumps([arguments(run) for run in fields.values()]))
    done = launch(["tests.plan.engine_worker", str(described)], ranks=2)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {
        name: (predict(run, ranks=2), json.loads(Path(run["output_dir"] / "engine.json").read_text()))
        for name, run in fields.items()
    }


@pytest.mark.parametrize("name", RUNS)
def test_optimizer_and_gradients_are_exact(runs: dict[str, tuple[Plan, dict[str, int]]], name: str) -> None:
    plan, engine = runs[name]
    trained = training(plan.setting, plan.census, plan.micro_batches)
    assert trained.optimizer == engine["masters"] * (MASTER + MOMENTS)
    if plan.setting.stage == 3:
        assert trained.late == engine["gradients"] * 4
        assert int(plan.setting.zero.reduce_bucket_size) == engine["bucket"]


@pytest.mark.parametrize("name", [name for name in RUNS if name != "stage 2"])
def test_shards_are_exact(runs: dict[str, tuple[Plan, dict[str, int]]], name: str) -> None:
    plan, engine = runs[name]
    setting, census = plan.setting, plan.census
    whole = sum(weight.bytes for weight in persistent(census.policy_weights, setting.zero))
    assert policy_weights(setting, census).device - whole == engine["policy shards"] * 4
    if census.reference:
        assert setting.placement is not None
        frozen = frozen_weights(setting, census.reference, setting.placement).device
        weights = [weight for unit in census.reference for weight in unit.weights]
        whole = sum(weight.bytes for weight in persistent(weights, setting.inference_zero("sharded")))
        assert frozen - whole == engine["reference shards"] * 4


@pytest.mark.parametrize("name", [name for name in RUNS if name != "stage 2"])
def test_gathered_parameters(runs: dict[str, tuple[Plan, dict[str, int]]], name: str) -> None:
    plan, engine = runs[name]
    found = policy_gathering(plan.setting, plan.census)
    assert found.fetched == pytest.approx(engine["gathered"] * 4, rel=0.05)
    assert max(found.most.values()) == pytest.approx(engine["most gathered"] * 4, rel=0.15)

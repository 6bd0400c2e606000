"""Runs of mixtures of experts: router loss and adapters on experts, one rank and two, ZeRO-2 and 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.runs.test_adapter_runs import LEARNING_RATE, TOLERANCE, assert_same, trained
from tests.support.mixtures import save_mixture
from tests.support.runs import ZERO, assert_same_curve, metrics, train_all
from tests.support.tiny import write_pairs

pytestmark = pytest.mark.slow
KINDS = (("mixtral", "lora"), ("mixtral", "qlora"), ("gpt_oss", "lora"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("experts")
    save_mixture(base / "mixtral", "mixtral")
    save_mixture(base / "gpt_oss", "gpt_oss")
    save_mixture(base / "routed", "mixtral", output_router_logits=True, router_aux_loss_coef=0.5)
    write_pairs(base / "pairs.jsonl", 4)
    common: dict[str, Any] = {
        "objective.name": "dpo", "data.train": base / "pairs.jsonl", "data.max_length": 100,
        "data.tokens_per_micro_batch": 1, "lora.rank": 2, "training.pairs_per_step": 4, "training.epochs": 2,
        "training.learning_rate": LEARNING_RATE, "training.eps": 1e-2, "training.schedule": "constant",
        "training.warmup_ratio": 0, "training.precision": "fp32", "training.full_metrics_every": 1,
    }  # fmt: skip
    one: dict[str, dict[str, Any]] = {}
    two: dict[str, dict[str, Any]] = {}
    for family, adapter in KINDS:
        layout = "padded" if family == "gpt_oss" else "prefix_shared"
        fields = {**common, "model.path": base / family, "model.adapter": adapter, "data.layout": layout}
        one[f"{family}-{adapter}"] = {**fields, "ds_config": ZERO[2]}
        two[f"{family}-{adapter}-zero3"] = {**fields, "ds_config": ZERO[3], "model.activation_checkpointing": True}
    final = base / "one" / "mixtral-lora" / "final"
    goes_on = {**common, "model.path": base / "mixtral", "model.adapter": "lora", "model.adapter_path": final,
               "reference.adapter_path": final}  # fmt: skip
    del goes_on["lora.rank"]
    one["goes_on"] = {**goes_on, "ds_config": ZERO[2]}
    two["goes_on-zero3"] = {**goes_on, "ds_config": ZERO[3]}
    routed = {**common, "model.path": base / "routed", "model.adapter": "lora"}
    one["routed"] = {**routed, "ds_config": ZERO[2]}
    two["routed-zero3"] = {**routed, "ds_config": ZERO[3], "model.activation_checkpointing": True}
    return train_all(base / "one", one) | train_all(base / "two", two, ranks=2)


@pytest.mark.parametrize("name", [*map("-".join, KINDS), "goes_on", "routed"])
def test_two_ranks_and_zero3_make_the_same_update(folders: dict[str, Path], name: str) -> None:
    assert_same(folders[name], folders[f"{name}-zero3"])


@pytest.mark.parametrize("name", map("-".join, KINDS))
def test_experts_learn(folders: dict[str, Path], name: str) -> None:
    weights = {key: value for key, value in trained(folders[name]).items() if "experts" in key and "lora_B" in key}
    assert len(weights) == 4
    assert all(value.abs().max().item() > 10 * TOLERANCE for value in weights.values())


@pytest.mark.parametrize("name", [*(f"{'-'.join(kind)}-zero3" for kind in KINDS), "goes_on-zero3"])
def test_step_zero_is_the_reference(folders: dict[str, Path], name: str) -> None:
    first = metrics(folders[name])[0]
    assert 0.69314 < first["loss"] < 0.69316 and first["rewards/margins"] == 0.0


def test_the_router_loss_is_beside_the_loss_and_changes_the_update(folders: dict[str, Path]) -> None:
    assert_same_curve(folders["routed"], folders["routed-zero3"])
    first = metrics(folders["routed"])[0]
    assert 0.69314 < first["loss"] < 0.69316
    assert 1.0 < first["loss/router_aux"] < 2.0  # coefficient times top-k, where experts are used evenly
    assert "loss/router_aux" not in metrics(folders["mixtral-lora"])[0]
    plain, routed = trained(folders["mixtral-lora"]), trained(folders["routed"])
    assert any((plain[key] - routed[key]).abs().max() > 10 * TOLERANCE for key in plain if "gate" in key)

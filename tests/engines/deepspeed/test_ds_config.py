"""ds_config and recipe agree, or the run stops and names both values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparsepo_dist.engines.deepspeed.ds_checks import check_fields
from sparsepo_dist.engines.deepspeed.ds_config import agree, engine_config, load_ds_config, precision, reference_config
from sparsepo_dist.errors import UserError
from sparsepo_dist.training.config import TrainingConfig

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]


def agreed(config: dict, **recipe: object) -> dict:
    training = TrainingConfig(**recipe)
    return agree(config, training.shared(), training.DEFAULTS)


def test_recipe_fills_auto_and_ds_config_fills_silence() -> None:
    config = {"train_batch_size": "auto", "optimizer": {"params": {"lr": 3e-6, "eps": "auto"}}}
    values = agreed(config, pairs_per_step=12)
    assert values["training.pairs_per_step"] == 12
    assert values["training.learning_rate"] == 3e-6
    assert values["training.eps"] == 1e-8
    filled = engine_config(config, values, torch.float32, 64, Path("run/monitor"))
    assert filled["optimizer"]["params"] == {"lr": 3e-6, "eps": 1e-8, "betas": (0.9, 0.999), "weight_decay": 0.0}
    assert filled["gradient_clipping"] == 1.0


@pytest.mark.parametrize(
    ("config", "recipe", "both"),
    [
        ({"train_batch_size": 32}, {"pairs_per_step": 64}, ("64", "32")),
        ({"gradient_clipping": 0.5}, {"max_grad_norm": 1.0}, ("0.5", "1.0")),
        ({"optimizer": {"params": {"lr": 1e-5}}}, {"learning_rate": 1e-6}, ("1e-05", "1e-06")),
        ({"optimizer": {"params": {"betas": [0.9, 0.95]}}}, {"betas": (0.9, 0.999)}, ("0.95", "0.999")),
    ],
)
def test_two_values_for_one_thing_are_an_error_naming_both(config: dict, recipe: dict, both: tuple[str, str]) -> None:
    with pytest.raises(UserError) as caught:
        agreed(config, **recipe)
    assert all(value in str(caught.value) for value in both)
    field = next(iter(recipe))
    assert agreed(config, **{field: None})[f"training.{field}"] is not None


def test_deepspeeds_three_batch_sizes_are_understood() -> None:
    config = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 3}
    assert agreed(config)["training.pairs_per_step"] == 12
    with pytest.raises(UserError, match="train_batch_size 13 is not"):
        agreed({**config, "train_batch_size": 13})


@pytest.mark.parametrize(
    ("config", "wanted", "dtype"),
    [
        ({}, "auto", torch.float32),
        ({}, "bf16", torch.bfloat16),
        ({"bf16": {"enabled": True}}, "auto", torch.bfloat16),
        ({"bf16": {"enabled": False}}, "auto", torch.float32),
        ({"bf16": {"enabled": "auto"}}, "fp32", torch.float32),
    ],
)
def test_precision(config: dict, wanted: str, dtype: torch.dtype) -> None:
    assert precision(config, wanted, CPU) == dtype


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16", "bf16"])
@pytest.mark.parametrize("there", [True, False])
def test_automatic_precision_is_what_the_processor_multiplies(
    monkeypatch: pytest.MonkeyPatch, instructions: str, there: bool
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True, instructions: there})
    dtype = torch.bfloat16 if there else torch.float32
    assert precision({"bf16": {"enabled": "auto"}}, "auto", CPU) == dtype


@pytest.mark.parametrize(
    ("config", "wanted", "message"),
    [
        ({"bf16": {"enabled": True}}, "fp32", "bf16 is enabled"),
        ({"bf16": {"enabled": False}}, "bf16", "bf16 is disabled"),
        ({"fp16": {"enabled": True}}, "auto", "refuses on CPUs"),
    ],
)
def test_contradicting_precision(config: dict, wanted: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        precision(config, wanted, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_the_trainer_of_transformers_leaves_to_itself_is_filled(dtype: torch.dtype) -> None:
    config = {
        "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto", "fp16": {"enabled": "auto", "loss_scale": 0}, "bf16": {"enabled": "auto"},
        "amp": {"enabled": "auto", "opt_level": "auto"},
        "optimizer": {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")},
        "zero_optimization": {
            "stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
        },
    }  # fmt: skip
    check_fields(config)
    filled = engine_config(config, agreed(config), dtype, 64, Path("run"))
    assert filled["fp16"] == {"enabled": dtype == torch.float16, "loss_scale": 0}
    assert filled["bf16"] == {"enabled": dtype == torch.bfloat16} and "amp" not in filled
    assert precision(config, "fp32", CPU) == torch.float32


def test_auto_that_nothing_fills_is_named() -> None:
    config = {"zero_optimization": {"stage": 3, "sub_group_size": "auto"}}
    with pytest.raises(UserError, match="zero_optimization.sub_group_size"):
        engine_config(config, agreed(config), torch.float32, 64, Path("run"))


def test_reference_has_no_optimizer_and_rests_in_host_memory_only_when_asked() -> None:
    config = {
        "optimizer": {"type": "AdamW"},
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "stage3_prefetch_bucket_size": 7},
    }
    engine = engine_config(config, agreed(config), torch.bfloat16, 64, Path("run"))
    sharded = reference_config(engine, "sharded")
    assert "optimizer" not in sharded and sharded["bf16"]["enabled"]
    assert sharded["zero_optimization"] == {"stage": 3, "stage3_prefetch_bucket_size": 7}
    assert reference_config(engine, "offload")["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert reference_config({**engine, "zero_optimization": {"stage": 2}}, "sharded")["zero_optimization"]["stage"] == 3


def test_unreadable_ds_config_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    for path, message in ((bad, "is not JSON"), (tmp_path / "none.json", "no such file")):
        with pytest.raises(UserError, match=message):
            load_ds_config(str(path))
    bad.write_text(json.dumps({"scheduler": {}}))
    with pytest.raises(UserError, match="training.schedule"):
        load_ds_config(str(bad))


@pytest.mark.parametrize("path", sorted((ROOT / "ds_configs").glob("*.json")), ids=lambda p: p.name)
def test_every_shipped_ds_config_can_be_filled(path: Path) -> None:
    config = load_ds_config(str(path))
    engine_config(config, agreed(config), torch.float32, 64, Path("run"))

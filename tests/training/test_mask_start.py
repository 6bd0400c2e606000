"""Where learned masks start in real runs: alike however the work is dealt out, and never dead in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.runs import ZERO, launch, train_all
from tests.support.tiny import save_tiny_model, write_pairs

pytestmark = pytest.mark.slow
LEARNING_RATE = 1e-2
TOLERANCE = 2e-4 * LEARNING_RATE
CALIBRATED = {"masks.init": "calibrated", "masks.initial_sparsity": "[0.7, 0.5]"}
BOUNDED = {"masks.bounded": True, "masks.floor": 0.02, "masks.initial_mean": 0.2}
# Each option, in the form of the divergence named; what is drawn while training is left out.
STARTS: dict[str, dict[str, Any]] = {
    "calibrated": CALIBRATED,
    "calibrated_common": {"masks.init": "calibrated", "masks.sharing": "common", "masks.linears": 2},
    "calibrated_last": {**CALIBRATED, "masks.layers": "last", "objective.divergence": "reference"},
    "bounded": {**CALIBRATED, **BOUNDED},
    "bounded_reference": {**CALIBRATED, **BOUNDED, "objective.divergence": "reference"},
    "floor_uncalibrated": {"masks.floor": 0.05},
    # With a seed whose masks are not dead.
    "released": {"masks.init": "released", "masks.dropout": 0.0, "masks.learning_rate": 1e-3, "training.seed": 1},
    "sigmoid": {"objective.name": "mapo", "masks.normalisation": "sigmoid"},
    "layernorm": {"objective.name": "mapo", "masks.normalisation": "layernorm"},
}
# Runs of one step, whose batch is all that heads are calibrated on.
WHOLE = {"training.pairs_per_step": 11, "training.max_steps": 1}
LORA = {"model.adapter": "lora", "masks.init": "calibrated"}


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("mask_start")
    save_tiny_model(base / "model", "llama")
    return {
        "model.path": base / "model", "data.train": write_pairs(base / "pairs.jsonl", 11), "data.max_length": 100,
        "data.tokens_per_micro_batch": 200, "objective.name": "sparsepo", "masks.layer_norm": True,
        "training.pairs_per_step": 5, "training.max_steps": 2, "training.learning_rate": LEARNING_RATE,
        # AdamW divides by |gradient| + eps: this one keeps it from blowing up the rounding of small gradients.
        "training.eps": 1e-1, "training.schedule": "constant", "training.warmup_ratio": 0,
        "training.precision": "fp32", "training.full_metrics_every": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folders(common: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("runs")
    plain = {"ds_config": ZERO[0], "data.layout": "padded", "data.tokens_per_micro_batch": 100000}
    dealt = {"ds_config": ZERO[3], "data.tokens_per_micro_batch": 70}
    one = {name: {**common, **plain, "reference.placement": "replicated", **start} for name, start in STARTS.items()}
    one |= {
        "lora": {**common, **plain, **LORA},
        "offload": {**common, "ds_config": ZERO[3], "reference.placement": "offload", **CALIBRATED},
        "bf16": {**common, "ds_config": ZERO[1], "training.precision": "bf16", **CALIBRATED},
        "checkpointed": {**common, "ds_config": ZERO[3], "checkpoints.every_steps": 1, **CALIBRATED},
    }
    shown = ("calibrated", "calibrated_common", "calibrated_last", "bounded", "bf16", "lora")
    one |= {f"{name}_whole": {**one[name], **WHOLE} for name in shown}
    two = {f"{name}_dealt": {**common, **dealt, **start} for name, start in STARTS.items()}
    two |= {
        "lora_dealt": {**common, **dealt, **LORA},
        "zero0": {**common, "ds_config": ZERO[0], **CALIBRATED},
        "zero2": {**common, "ds_config": ZERO[2], "data.tokens_per_micro_batch": 70, **CALIBRATED},
    }
    return train_all(base / "one", one) | train_all(base / "two", two, ranks=2)


def parameters(run: Path) -> dict[str, torch.Tensor]:
    files = [run / "final" / name for name in ("model.safetensors", "adapter_model.safetensors", "masks.safetensors")]
    return {name: value for file in files if file.exists() for name, value in load_file(file).items()}


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same(run: Path, other: Path) -> None:
    ours, theirs = parameters(run), parameters(other)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        # Calibrated parameters may be large, and have as many digits as small ones.
        assert (value - theirs[key]).abs().max().item() <= TOLERANCE + 1e-6 * value.abs().max().item(), key


@pytest.mark.parametrize("name", [*STARTS, "lora"])
def test_two_ranks_another_layout_and_budget_make_the_same_updates(folders: dict[str, Path], name: str) -> None:
    assert_same(folders[name], folders[f"{name}_dealt"])
    histograms = [[row[key] for row in rows(run) for key in row if key.startswith("histogram")]
                  for run in (folders[name], folders[f"{name}_dealt"])]  # fmt: skip
    assert histograms[0] == histograms[1] and histograms[0]


@pytest.mark.parametrize("name", ["offload", "checkpointed", "zero0", "zero2"])
def test_a_calibrated_start_does_not_depend_on_zero_or_where_the_reference_rests(
    folders: dict[str, Path], name: str
) -> None:
    assert_same(folders["calibrated"], folders[name])


@pytest.mark.parametrize(
    ("name", "shares"),
    [("calibrated", (0.7, 0.5)), ("calibrated_common", (0.8, 0.8)), ("calibrated_last", (0.7, 0.5)),
     ("bounded", (0.7, 0.5)), ("bf16", (0.7, 0.5)), ("lora", (0.8, 0.8))],
)  # fmt: skip
def test_the_batch_has_the_share_and_the_mean_asked_for(
    folders: dict[str, Path], name: str, shares: tuple[float, float]
) -> None:
    row = rows(folders[f"{name}_whole"])[0]
    floor, mean = (0.02, 0.2) if name == "bounded" else (0.0, 1.0)
    for mask, share in zip(("reward_mask", "divergence_mask"), shares, strict=True):
        counts = row[f"histogram/{mask}"]
        assert counts[1] / sum(counts) == pytest.approx(share, abs=0.02)
        kept = row[f"weight/{mask}/mean"]
        assert kept * (1 - share) + floor * share == pytest.approx(mean, rel=0.05)


def test_a_run_that_is_gone_on_with_keeps_its_masks(
    folders: dict[str, Path], common: dict[str, Any], tmp_path: Path
) -> None:
    whole = folders["checkpointed"]
    shutil.copytree(whole, tmp_path / "again")
    for later in ("final", "checkpoints/step-00000002"):
        shutil.rmtree(tmp_path / "again" / later)
    fields = {**common, "ds_config": ZERO[3], "checkpoints.every_steps": 1, **CALIBRATED, "resume": "auto"}
    again = train_all(tmp_path, {"again": fields})["again"]
    for key, value in parameters(whole).items():
        assert torch.equal(value, parameters(again)[key]), key


def command(common: dict[str, Any], ranks: int, **changes: Any) -> Any:
    fields = {**common, "ds_config": "ds_configs/zero3.json", **{k.replace("__", "."): v for k, v in changes.items()}}
    return launch(["launch/train.py", *(f"--{name}={value}" for name, value in fields.items())], ranks=ranks)


def test_a_mask_that_starts_dead_is_refused_on_all_ranks_and_nothing_is_left(
    common: dict[str, Any], tmp_path: Path
) -> None:
    """Of few tokens, many seeds' heads let none through."""
    short = {"prompt": "a", "chosen": " b", "rejected": " c"}
    (tmp_path / "short.jsonl").write_text(json.dumps(short) + "\n" + json.dumps(short) + "\n")
    changes = {
        "data__train": tmp_path / "short.jsonl", "output_dir": tmp_path / "run", "training__pairs_per_step": 2,
        "masks__layers": "last", "training__seed": DEAD_SEED,
    }  # fmt: skip
    done = command(common, 2, **changes)
    assert done.returncode != 0 and done.stderr.count("exitcode  : 2") == 2, done.stderr[-3000:]
    assert f"masks.init: with torch and training.seed {DEAD_SEED} the " in done.stderr
    assert "mask is 0 on all 12 response tokens of the first global batch" in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists() and not (tmp_path / "run" / "config.yaml").exists()
    done = command(common, 1, **changes, masks__init="calibrated", overwrite="true")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("masks are calibrated on all 2 pairs of the training data: of fewer than 64") == 1


def test_a_mask_that_dies_is_warned_of_once_with_the_step(common: dict[str, Any], tmp_path: Path) -> None:
    done = command(
        common, 1, output_dir=tmp_path / "run", masks__init="calibrated", masks__learning_rate=0.5,
        objective__l1_reward=100.0, training__eps=1e-8, training__max_steps=6, training__epochs=6,
        training__pairs_per_step=11,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [row["step"] for row in rows(tmp_path / "run") if row["split"] == "train" and _dead(row)]
    assert len(steps) > 1
    assert done.stderr.count("reward mask rules out every response token") == 1
    assert f"since step {steps[0]} the reward mask rules out" in done.stderr


def _dead(row: dict[str, Any]) -> bool:
    counts = row["histogram/reward_mask"]
    return counts[1] == sum(counts) and row["sparsity/reward_mask/pairs"] > 0.999


DEAD_SEED = 0

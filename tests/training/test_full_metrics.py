"""Steps between full metrics skip the tokens whose masks are both 0: only what needs every token goes missing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.runs import ZERO, metrics, train_all
from tests.support.tiny import save_tiny_model, write_pairs

STEPS = 7
FULL_STEPS = {"every_step": [1, 2, 3, 4, 5, 6, 7], "every_third": [1, 4, 7]}
BRANCHES = ("chosen", "rejected")
NEED_EVERY_TOKEN = {f"{name}/{branch}" for name in ("kl", "token_kl", "logps") for branch in BRANCHES}
SAME = ("loss", "grad_norm", "masked_kl/", "rewards/", "sparsity/")
MASKS = ("reward_mask", "divergence_mask")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Train steps of a run with full metrics on every step and of one with them on every third."""
    base = tmp_path_factory.mktemp("full_metrics")
    save_tiny_model(base / "model")
    fields = {
        "ds_config": ZERO[3],
        "model.path": base / "model",
        "data.train": write_pairs(base / "train.jsonl", 12),
        "data.max_length": 100,
        "data.tokens_per_micro_batch": 200,
        "objective.name": "sparsepo",
        "objective.l1_reward": 0.001,
        "masks.sharing": "independent",
        "masks.layer_norm": True,
        "training.pairs_per_step": 6,
        "training.epochs": 10,
        "training.max_steps": STEPS,
        "training.learning_rate": 1e-3,
        "training.eps": 1e-4,
        "training.precision": "fp32",
        "training.seed": 4,  # masks that are each 0 for some two thirds of the tokens
    }
    every = {"every_step": 1, "every_third": 3}
    runs = train_all(base / "out", {name: {**fields, "training.full_metrics_every": n} for name, n in every.items()})
    return {name: [row for row in metrics(run) if row["split"] == "train"] for name, run in runs.items()}


def test_both_masks_are_0_for_many_tokens_and_not_for_all(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Shares that add up to more than 1 leave tokens whose masks are both 0."""
    for row in rows["every_step"] + rows["every_third"]:
        for branch in BRANCHES:
            shares = [row[f"sparsity/{mask}/{branch}"] for mask in MASKS]
            assert all(0.4 < share < 0.9 for share in shares) and sum(shares) > 1.1, f"step {row['step']}: {shares}"


@pytest.mark.parametrize("name", FULL_STEPS)
def test_what_needs_every_token_is_reported_on_full_steps_only(
    rows: dict[str, list[dict[str, Any]]], name: str
) -> None:
    assert [row["step"] for row in rows[name]] == list(range(1, STEPS + 1))
    for row in rows[name]:
        found = {key for key in row if key.startswith(("kl/", "token_kl/", "logps/"))}
        assert found == (NEED_EVERY_TOKEN if row["step"] in FULL_STEPS[name] else set()), f"step {row['step']}"


def test_skipping_changes_neither_loss_nor_gradient(rows: dict[str, list[dict[str, Any]]]) -> None:
    for got, want in zip(rows["every_third"], rows["every_step"], strict=True):
        wanted = {key: value for key, value in want.items() if key.startswith(SAME)}
        assert all(any(key.startswith(prefix) for key in wanted) for prefix in SAME)
        assert {key: got[key] for key in wanted} == pytest.approx(wanted, rel=1e-5, abs=1e-6), f"step {want['step']}"

"""Loss and gradient of each objective against the formulas in float64 over full logits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sparsepo_dist.objectives import objective_names
from sparsepo_dist.objectives.beta_dpo import LEAST_BETA
from tests.objectives.cases import CASES, CONSTANTS, ModelBatch, objective_of
from tests.support.brute_force import NAMES, batch_losses

WEIGHTS = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)


def gradients(losses: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((losses * WEIGHTS).sum(), leaves, allow_unused=True, materialize_grads=True))


def test_every_objective_has_a_case_and_a_formula() -> None:
    assert sorted(CASES) == sorted(NAMES)
    assert {case["name"] for case in CASES.values()} == set(objective_names())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient(name: str, seed: int) -> None:
    batch = ModelBatch(seed)
    losses = batch.apply(objective_of(name)).losses
    want = batch_losses(name, batch.pairs(), CONSTANTS)
    torch.testing.assert_close(losses, want, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradients(losses, batch.leaves()), gradients(want, batch.leaves()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["dpop", "kto", "beta_dpo"])
def test_batches_above_reach_what_is_special_in_a_loss(name: str) -> None:
    """The penalty is at work; each estimate of the KL is above 0; beta is off its base, on and off its floor."""
    metrics = [ModelBatch(seed).apply(objective_of(name)).metrics for seed in range(3)]
    if name == "dpop":
        assert any((m["rewards/chosen"] < 0).any() for m in metrics)
    elif name == "kto":
        assert all(any((m[f"kl_estimate/{side}"] > 0).all() for m in metrics) for side in ("chosen", "rejected"))
    else:
        betas = sorted(m["beta"][0].item() for m in metrics)
        assert betas[0] == LEAST_BETA and LEAST_BETA < betas[1] < betas[2] < CONSTANTS["beta"]


def test_common_mask_is_charged_once() -> None:
    batch = ModelBatch()
    losses = batch.apply(objective_of("sparsepo"), common=True).losses
    half = {**CONSTANTS, "l1_u": CONSTANTS["l1_u"] / 2, "l1_d": CONSTANTS["l1_d"] / 2}
    want = batch_losses("sparsepo", batch.pairs(common=True), half)
    torch.testing.assert_close(losses, want, rtol=1e-10, atol=1e-12)

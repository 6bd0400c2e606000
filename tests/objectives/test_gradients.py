"""Gradients with respect to what an objective is given, by finite differences."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from sparsepo_dist.contracts import TokenMasks
from tests.objectives.cases import CASES, Batch, informed, objective_of

# AlphaDPO's margin and WPO's weights follow the policy without gradient, which no finite difference knows: the brute
# force has it.
WITH_GRADCHECK = [name for name in CASES if name not in ("alpha_dpo", "wpo", "wpo_ipo")]


@pytest.mark.parametrize("name", WITH_GRADCHECK)
def test_gradcheck(name: str) -> None:
    batch, objective = Batch([(2, 3), (1, 1)]), objective_of(name)
    needs, responses = objective.requirements, batch.responses
    stats = batch.stats(objective)
    if needs.global_means:  # constants for the gradient
        means = objective.batch_values(stats, None, responses).mean(0)  # type: ignore[attr-defined]
        responses = informed(responses, means)

    # Finite differences know no stop-gradient: in tdpo2 the chosen response's KL is kept still.
    still, kept = (responses.sequence_id % 2 == 0) & (name == "tdpo2"), batch.divergence.detach().clone()

    def losses(policy: Tensor, v: Tensor, m_u: Tensor, m_d: Tensor) -> Tensor:
        v = torch.where(still, kept, v)
        given = dataclasses.replace(stats, policy_logp=policy, divergence=None if needs.divergence is None else v)
        return objective(given, TokenMasks(m_u, m_d) if needs.masks else None, responses).losses

    assert torch.autograd.gradcheck(losses, batch.leaves())


def test_tdpo2_stops_the_gradient_of_the_chosen_divergence_only() -> None:
    batch, objective = Batch(), objective_of("tdpo2")
    losses = batch.apply(objective).losses
    (gradient,) = torch.autograd.grad(losses.sum(), batch.divergence)
    chosen = batch.responses.sequence_id % 2 == 0
    assert (gradient[chosen] == 0).all() and (gradient[~chosen] != 0).all()


@pytest.mark.parametrize("name", ["kto", "beta_dpo"])
def test_batch_values_carry_no_gradient(name: str) -> None:
    batch, objective = Batch(), objective_of(name)
    values = objective.batch_values(batch.stats(objective), None, batch.responses)  # type: ignore[attr-defined]
    assert not values.requires_grad
    assert values.shape == (batch.responses.pairs, {"kto": 2, "beta_dpo": 1}[name])


@pytest.mark.parametrize("name", ["kto", "beta_dpo"])
def test_no_gradient_passes_the_means(name: str) -> None:
    batch, objective = Batch(), objective_of(name)
    means = torch.ones({"kto": 2, "beta_dpo": 1}[name], dtype=torch.float64, requires_grad=True)
    responses = dataclasses.replace(batch.responses, global_means=means, history=torch.zeros_like(means))
    losses, metrics = objective(batch.stats(objective), None, responses)
    (gradient,) = torch.autograd.grad(losses.sum(), means, allow_unused=True, materialize_grads=True)
    assert (gradient == 0).all()
    assert not any(values.requires_grad for values in metrics.values())

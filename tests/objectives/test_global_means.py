"""Objectives whose loss of one pair depends on the others: KTO, beta-DPO, BCO and AlphaDPO, however the global batch is
cut."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from sparsepo_dist.objectives.beta_dpo import LEAST_BETA
from tests.objectives.cases import CASES, CONSTANTS, HISTORY, Batch, informed, objective_of

LENGTHS = [(3, 5), (1, 1), (4, 2), (6, 2), (2, 2)]
OF_THE_BATCH = ("kto", "beta_dpo", "bco", "alpha_dpo")
PARTS = [[3, 0], [1, 2, 4]]


@pytest.mark.parametrize("name", OF_THE_BATCH)
def test_parts_that_share_the_means_give_the_losses_of_one_batch(name: str) -> None:
    objective: Any = objective_of(name)
    whole = Batch(LENGTHS)
    want = whole.apply(objective)
    parts = [whole.part(pairs) for pairs in PARTS]
    values = torch.cat([objective.batch_values(part.stats(objective), None, part.responses) for part in parts])
    shared, alone = torch.empty_like(want.losses), torch.empty_like(want.losses)
    for part, pairs in zip(parts, PARTS, strict=True):
        output = objective(part.stats(objective), None, informed(part.responses, values.mean(0)))
        shared[pairs] = output.losses
        for metric, value in output.metrics.items():
            torch.testing.assert_close(value, want.metrics[metric][pairs], msg=metric)
        alone[pairs] = part.apply(objective).losses
    torch.testing.assert_close(shared, want.losses, rtol=1e-12, atol=1e-14)
    assert ((alone - want.losses).abs() > 1e-4).all()
    gradients = (torch.autograd.grad(losses.sum(), whole.policy)[0] for losses in (shared, want.losses))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_only_these_look_at_the_whole_batch() -> None:
    for name in CASES:
        needs = objective_of(name).requirements
        assert needs.global_means == (name in OF_THE_BATCH), name
        assert needs.momentum == (0.9 if name in OF_THE_BATCH[1:] else 0.0), name


def test_means_of_float32_do_not_narrow_the_losses() -> None:
    """The trainer's means are float32, whatever the statistics are."""
    for name in OF_THE_BATCH:
        objective: Any = objective_of(name)
        batch = Batch()
        means = objective.batch_values(batch.stats(objective), None, batch.responses).mean(0).float()
        output = objective(batch.stats(objective), None, informed(batch.responses, means))
        assert output.losses.dtype == torch.float64
        torch.testing.assert_close(output.losses, batch.apply(objective).losses, rtol=1e-6, atol=1e-7)


def test_beta_is_itself_in_the_first_step_and_in_evaluation() -> None:
    batch = Batch()
    output = batch.apply(objective_of("beta_dpo"), history=None)
    assert output.metrics["beta"].tolist() == [CONSTANTS["beta"]] * 3
    assert torch.equal(output.losses, batch.apply(objective_of("dpo")).losses)
    unknown = objective_of("beta_dpo")(batch.stats(objective_of("beta_dpo")), None, batch.responses)
    assert torch.equal(unknown.losses, output.losses)


@pytest.mark.parametrize(("lead", "wanted"), [(0.0, 0.7), (1.0, 1.05), (-1.0, 0.35), (-2.0, LEAST_BETA), (-9.0, 0.001)])
def test_beta_follows_the_lead_over_earlier_steps(lead: float, wanted: float) -> None:
    """beta (1 + alpha lead), and never below its floor."""
    batch, objective = Batch(), objective_of("beta_dpo")
    means = torch.tensor([HISTORY + lead]).double()
    output = objective(batch.stats(objective), None, informed(batch.responses, means))
    torch.testing.assert_close(output.metrics["beta"], torch.full((3,), wanted).double())
    # The reward keeps the constant beta, so that curves of different steps can be compared.
    dpo = batch.apply(objective_of("dpo"))
    for name, value in dpo.metrics.items():
        assert torch.equal(output.metrics[name], value), name


def test_kto_compares_each_half_with_the_other() -> None:
    """More likely rejected responses raise the bar of the chosen ones, and the other way round; less likely ones do
    not lower it below 0."""
    batch, objective = Batch(), objective_of("kto")
    stats = batch.stats(objective)

    def losses(of_chosen: float, of_rejected: float) -> torch.Tensor:
        means = torch.tensor([of_chosen, of_rejected]).double()
        return objective(stats, None, dataclasses.replace(batch.responses, global_means=means)).losses

    assert (losses(0.0, 2.0) > losses(0.0, 0.0)).all()
    assert (losses(2.0, 0.0) < losses(0.0, 0.0)).all()
    assert torch.equal(losses(-3.0, -2.0), losses(0.0, 0.0))


def test_bco_tells_responses_from_the_mean_reward_of_all() -> None:
    """A reward that every response has besides changes no loss, as it does without the shift."""
    batch, more = Batch(), Batch()
    with torch.no_grad():
        starts = torch.cat([torch.ones(1), more.responses.sequence_id.diff()]) != 0
        more.policy += 3.0 * starts
    bco, pair = objective_of("bco"), objective_of("dpo_bco_pair")
    torch.testing.assert_close(more.apply(bco, history=None).losses, batch.apply(bco, history=None).losses)
    assert not torch.allclose(more.apply(pair).losses, batch.apply(pair).losses)
    shift = batch.apply(bco, history=None).metrics["shift"]
    rewards = [batch.apply(pair).metrics[f"rewards/{side}"] for side in ("chosen", "rejected")]
    torch.testing.assert_close(shift, torch.cat(rewards).mean().expand(3))


def test_alpha_dpo_asks_more_of_pairs_that_lead_more_than_others() -> None:
    batch = Batch()
    output = batch.apply(objective_of("alpha_dpo"), history=None)
    target = output.metrics["target_margin"]
    torch.testing.assert_close(target.mean(), torch.tensor(CONSTANTS["gamma"]).double())
    leads = batch.apply(objective_of("dpo_norm"))
    order = (-leads.losses).argsort()  # the losses fall with M
    assert target[order].diff().gt(0).all()
    torch.testing.assert_close(target.std(correction=0), torch.tensor(CONSTANTS["beta"] * CONSTANTS["alpha"]).double())
    simpo = batch.apply(objective_of("simpo"))
    torch.testing.assert_close(batch.apply(objective_of("alpha_dpo", alpha=0.0)).losses, simpo.losses)


def test_alpha_dpo_is_simpo_where_the_policy_is_the_reference_but_for_rounding() -> None:
    batch = Batch()
    with torch.no_grad():
        batch.reference.copy_(batch.policy + 1e-9 * torch.randn(len(batch.policy), dtype=torch.float64))
    found = batch.apply(objective_of("alpha_dpo"), history=None).losses
    torch.testing.assert_close(found, batch.apply(objective_of("simpo")).losses, rtol=1e-5, atol=1e-6)

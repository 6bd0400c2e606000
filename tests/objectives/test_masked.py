"""Objectives that are defined without masks, with them: against the float64 brute force, and what they then are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from sparsepo_dist.contracts import TokenMasks
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig
from sparsepo_dist.masks.positions import decay, positions, tail
from sparsepo_dist.objectives import Composed, ObjectiveConfig, compose
from tests.objectives.cases import CASES, CONSTANTS, Batch, ModelBatch, apply, informed, objective_of
from tests.objectives.test_against_brute_force import gradients
from tests.objectives.test_gradients import WITH_GRADCHECK
from tests.objectives.test_lengths import SHAPES
from tests.support.brute_force import batch_losses

OF_ITS_OWN = (
    "sft", "sepo", "sparsepo", "sparsepo_released", "sparsepo_alpha", "mapo", "tgdpo", "tis_dpo", "tis_dpo_released",
)  # fmt: skip
PLAIN = [name for name in CASES if name not in OF_ITS_OWN]


def composed(name: str, masks: MaskConfig) -> Composed:
    return compose(ObjectiveConfig(**{"beta": CONSTANTS["beta"], **CASES[name]}), masks)


@pytest.mark.parametrize("name", PLAIN)
def test_loss_and_gradient_with_masks(name: str) -> None:
    batch, objective = ModelBatch(1), composed(name, MaskConfig(kind="learned")).objective
    # No response is ruled out as a whole: at a sum of 0 dpop has a kink and orpo's odds are infinite.
    first = 0.1 * (positions(batch.responses) == 0)
    batch.m_u = (batch.m_u.detach() + first).requires_grad_()
    losses = batch.apply(objective, masked=True).losses
    want = batch_losses(name, batch.pairs(), CONSTANTS, masked=True)
    torch.testing.assert_close(losses, want, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradients(losses, batch.leaves()), gradients(want, batch.leaves()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in PLAIN if name in WITH_GRADCHECK])
def test_gradcheck_through_the_masks(name: str) -> None:
    batch, objective = Batch([(2, 3), (1, 1)]), composed(name, MaskConfig(kind="learned")).objective
    stats, responses, needs = batch.stats(objective), batch.responses, objective.requirements
    masks = TokenMasks(batch.m_u.detach(), batch.m_d.detach())
    if needs.global_means:  # constants for the gradient
        means = objective.batch_values(stats, masks, responses).mean(0)  # type: ignore[attr-defined]
        responses = informed(responses, means)
    still = (responses.sequence_id % 2 == 0) & (name == "tdpo2")  # no finite difference knows its stop-gradient
    kept_v, kept_d = batch.divergence.detach().clone(), batch.m_d.detach().clone()

    def losses(policy: Tensor, v: Tensor, m_u: Tensor, m_d: Tensor) -> Tensor:
        v, m_d = torch.where(still, kept_v, v), torch.where(still, kept_d, m_d)
        given = dataclasses.replace(stats, policy_logp=policy, divergence=None if needs.divergence is None else v)
        return objective(given, TokenMasks(m_u, m_d), responses).losses

    assert torch.autograd.gradcheck(losses, batch.leaves())


def test_masks_make_of_one_objective_another() -> None:
    batch = ModelBatch(2)
    learned = MaskConfig(kind="learned")

    def with_masks(name: str) -> Tensor:
        return batch.apply(composed(name, learned).objective, masked=True).losses

    without_l1 = {"l1_reward": 0.0, "l1_divergence": 0.0}
    torch.testing.assert_close(with_masks("dpo"), batch.apply(objective_of("sepo")).losses)
    torch.testing.assert_close(with_masks("tdpo1"), batch.apply(objective_of("sparsepo_released", **without_l1)).losses)
    for name, weights in (
        ("d2po", decay(batch.responses, CONSTANTS["gamma"], torch.float64)),
        ("ld_dpo", tail(batch.responses, CONSTANTS["alpha"], torch.float64)),
    ):
        batch.m_u = weights
        torch.testing.assert_close(with_masks("dpo"), batch.apply(objective_of(name)).losses)


@pytest.mark.parametrize("name", ["dpo", "tdpo2", "simpo", "kto"])
def test_metrics_are_of_all_tokens_and_of_the_masks(name: str) -> None:
    """Rewards are masked ones; log-probabilities and KL are what they are without masks."""
    batch, objective = Batch(), composed(name, MaskConfig(kind="learned")).objective
    masks = TokenMasks(batch.m_u, batch.m_d)
    found = apply(objective, batch.stats(objective), masks, batch.responses, masked=True).metrics
    plain = apply(objective_of(name), batch.stats(objective), None, batch.responses).metrics
    same = [key for key in plain if key.partition("/")[0] in ("logps", "kl", "token_kl")]
    assert same and all(torch.equal(found[key], plain[key]) for key in same)
    assert not torch.equal(found["rewards/chosen"], plain["rewards/chosen"])
    off = (batch.m_u == 0).double()
    chosen = torch.stack([off[batch.responses.sequence_id == 2 * pair].mean() for pair in range(3)])
    torch.testing.assert_close(found["sparsity/reward_mask/chosen"], chosen.float())
    assert ("masked_kl/chosen" in found) == (name == "tdpo2")


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_skipped_is_in_no_metric_and_changes_no_loss(name: str) -> None:
    """Tokens that both masks rule out come without numbers, where the objective does not want all of them."""
    batch, objective = Batch(), composed(name, MaskConfig(kind="learned")).objective
    if objective.requirements.all_tokens:
        assert name in ("confpo", "orpo", "dpo_nll", "wpo", "wpo_ipo")
        return
    if objective.requirements.divergence is None:
        batch.m_d = batch.m_u
    masks, stats = TokenMasks(batch.m_u, batch.m_d), batch.stats(objective)
    off = (batch.m_u == 0) & (batch.m_d == 0)
    assert off.any()
    kept = {
        field: values.masked_fill(off, 0)
        for field in ("policy_logp", "reference_logp", "divergence")
        if (values := getattr(stats, field)) is not None
    }
    part = dataclasses.replace(stats, **kept, complete=False)
    whole, skipped = (apply(objective, given, masks, batch.responses, masked=True) for given in (stats, part))
    torch.testing.assert_close(skipped.losses, whole.losses)
    assert not any(key.partition("/")[0] in ("logps", "kl", "token_kl") for key in skipped.metrics)


def test_what_masks_ask_of_the_reference() -> None:
    simpo = {kind: composed("simpo", MaskConfig(kind=kind)) for kind in ("learned", "activation", "decay", "random")}
    assert {kind: one.objective.requirements.reference for kind, one in simpo.items()} == {
        "learned": True, "activation": True, "decay": False, "random": False,
    }  # fmt: skip
    assert [one.masks.sharing for one in simpo.values()] == ["common", "independent", "independent", "common"]
    assert composed("tdpo1", MaskConfig(kind="learned")).masks.sharing == "independent"
    assert composed("dpo", MaskConfig()).sources == () == composed("dpo_nll", MaskConfig()).sources
    both = composed("dpo_nll", MaskConfig(kind=["learned", "decay"]))
    assert both.sources == ("learned", "decay") and both.objective.requirements.all_tokens


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("shape", SHAPES)
def test_empty_short_and_wholly_masked_responses_stay_finite(name: str, shape: str) -> None:
    batch, objective = Batch(SHAPES[shape], dtype=torch.float32), composed(name, MaskConfig(kind="learned")).objective
    for weight in (None, 0.0):
        if weight is not None:
            batch.m_u, batch.m_d = (torch.full_like(m, weight).requires_grad_() for m in (batch.m_u, batch.m_d))
        losses, metrics = batch.apply(objective, masked=True)
        found = torch.autograd.grad(losses.sum(), batch.leaves(), allow_unused=True, materialize_grads=True)
        assert all(part.isfinite().all() for part in (losses, *found, *metrics.values()))


RATIOS_ALONE = [name for name in PLAIN if objective_of(name).requirements.reference and name != "alpha_dpo"]


@pytest.mark.parametrize("name", RATIOS_ALONE)
def test_where_the_policy_is_the_reference_masks_change_no_loss(name: str) -> None:
    batch = Batch()
    batch.reference, batch.divergence = batch.policy.detach(), torch.zeros_like(batch.policy)
    masked = batch.apply(composed(name, MaskConfig(kind="learned")).objective, masked=True, history=0.0)
    torch.testing.assert_close(masked.losses, batch.apply(objective_of(name), history=0.0).losses)


REFUSED = {
    "masks.kind": ("sft", {"kind": "decay"}),
    "masks.on: divergence leaves nothing to weigh in objective dpo": (
        "dpo",
        {"kind": "learned", "on": "divergence"},
    ),
    "masks.normalisation: standardise has negative weights": ("orpo", {"kind": ["decay", "activation"]}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_masks_without_a_meaning_are_refused(words: str) -> None:
    name, options = REFUSED[words]
    with pytest.raises(UserError, match=words):
        composed(name, MaskConfig(**options))


def test_masks_that_orpo_has_a_meaning_for_are_taken() -> None:
    for options in ({"clip": True}, {"normalisation": "rescale"}):
        assert composed("orpo", MaskConfig(kind="activation", **options)).sources == ("activation",)

"""What objectives report of each pair."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sparsepo_dist.contracts import TokenMasks
from tests.objectives.cases import CASES, CONSTANTS, Batch, ModelBatch, apply, objective_of
from tests.support.brute_force import token_numbers

REWARDS = {f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "ties", "margins")}
LOGPS = {"logps/chosen", "logps/rejected"}
KL = {f"{name}/{side}" for name in ("kl", "token_kl") for side in ("chosen", "rejected")}
REWARD_MASK = {*(f"sparsity/reward_mask/{part}" for part in ("chosen", "rejected", "pairs")), "l1/reward_mask"}
MASKS = {
    *REWARD_MASK, *(f"sparsity/divergence_mask/{part}" for part in ("chosen", "rejected", "pairs")),
    "l1/divergence_mask", "masked_kl/chosen", "masked_kl/rejected",
}  # fmt: skip
ADDED = {
    "beta_dpo": {"beta"},
    "bco": {"shift"},
    "alpha_dpo": {"target_margin"},
    "wpo": {"on_policy_weight"}, "wpo_ipo": {"on_policy_weight"},
    "kto": {"kl_estimate/chosen", "kl_estimate/rejected"},
    "dpo_nll": {"nll_loss"},
    "confpo": {"unsure/chosen", "unsure/rejected"},
    "orpo": {"nll_loss", "log_odds_chosen", "log_odds_ratio"},
    "tdpo1": KL, "tdpo2": KL,
    **dict.fromkeys(("sepo", "tgdpo", "tis_dpo_released"), REWARD_MASK),
    **dict.fromkeys(("sparsepo", "sparsepo_released", "sparsepo_alpha", "mapo", "tis_dpo"), KL | MASKS),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes(name: str) -> None:
    metrics = Batch().apply(objective_of(name)).metrics
    assert set(metrics) == ({"logps/chosen"} if name == "sft" else REWARDS | LOGPS | ADDED.get(name, set()))
    for metric, values in metrics.items():
        assert values.shape == (3,) and not values.requires_grad, metric


@pytest.mark.parametrize("name", ["sparsepo", "sparsepo_released"])
def test_masked_rewards_and_divergences(name: str) -> None:
    batch, beta = ModelBatch(), CONSTANTS["beta"]
    metrics = batch.apply(objective_of(name)).metrics
    for pair, sides in enumerate(batch.pairs()):
        rewards = []
        for side, response in zip(("chosen", "rejected"), sides, strict=True):
            logp, ref, reverse, forward, *_ = token_numbers(response)
            kl, v = (reverse, reverse) if name == "sparsepo" else (forward, -forward)
            rewards.append(beta * (response.m_u * (logp - ref) + response.m_d * v).sum())
            wanted = {
                f"rewards/{side}": rewards[-1],
                f"logps/{side}": logp.sum(),
                f"kl/{side}": kl.sum(),
                f"token_kl/{side}": kl.mean(),
                f"masked_kl/{side}": (response.m_d * kl).sum(),
                f"sparsity/reward_mask/{side}": (response.m_u == 0).double().mean(),
                f"sparsity/divergence_mask/{side}": (response.m_d == 0).double().mean(),
            }
            for key, value in wanted.items():
                assert metrics[key][pair].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-9), key
        assert metrics["rewards/margins"][pair].item() == pytest.approx((rewards[0] - rewards[1]).item(), abs=1e-9)
        assert metrics["rewards/accuracies"][pair].item() == float(rewards[0] > rewards[1])
        l1 = sum(response.m_u.sum().item() for response in sides)
        assert metrics["l1/reward_mask"][pair].item() == pytest.approx(l1)


@pytest.mark.parametrize("name", ["simpo", "orpo"])
def test_rewards_without_a_reference_are_mean_log_probabilities(name: str) -> None:
    batch = ModelBatch()
    metrics = batch.apply(objective_of(name)).metrics
    for pair, sides in enumerate(batch.pairs()):
        chosen, rejected = (CONSTANTS["beta"] * token_numbers(response)[0].mean().item() for response in sides)
        assert metrics["rewards/chosen"][pair].item() == pytest.approx(chosen)
        assert metrics["rewards/rejected"][pair].item() == pytest.approx(rejected)
        assert metrics["rewards/margins"][pair].item() == pytest.approx(chosen - rejected)
        assert metrics["rewards/accuracies"][pair].item() == float(chosen > rejected)
        assert metrics["logps/chosen"][pair].item() == pytest.approx(token_numbers(sides[0])[0].sum().item())


def test_parts_of_orpo_make_its_loss() -> None:
    losses, metrics = Batch().apply(objective_of("orpo"))
    torch.testing.assert_close(losses, metrics["nll_loss"] - CONSTANTS["beta"] * metrics["log_odds_ratio"])


def test_kl_estimates_are_what_each_half_is_compared_with() -> None:
    batch = Batch()
    metrics = batch.apply(objective_of("kto")).metrics
    for half, other in (("chosen", "rejected"), ("rejected", "chosen")):
        mean = (metrics[f"rewards/{other}"] / CONSTANTS["beta"]).mean()
        torch.testing.assert_close(metrics[f"kl_estimate/{half}"], mean.expand(3))


@pytest.mark.parametrize("name", ["sepo", "sparsepo"])
def test_skipped_tokens_leave_out_only_what_needs_them(name: str) -> None:
    """Tokens that both masks rule out come with statistics of 0."""
    batch, objective = Batch(), objective_of(name)
    mask = (torch.arange(len(batch.policy)) % 2).double()
    masks, stats = TokenMasks(mask, mask, common=True), batch.stats(objective)
    whole = apply(objective, stats, masks, batch.responses)
    divergence = None if stats.divergence is None else stats.divergence * mask
    skipped = dataclasses.replace(stats, policy_logp=stats.policy_logp * mask, divergence=divergence, complete=False)
    part = apply(objective, skipped, masks, batch.responses)
    torch.testing.assert_close(part.losses, whole.losses)
    assert set(whole.metrics) - set(part.metrics) == (LOGPS if name == "sepo" else LOGPS | KL)
    for metric, values in part.metrics.items():
        torch.testing.assert_close(values, whole.metrics[metric], msg=metric)

"""Metrics that every preference objective reports (FACTS.md): rewards, log-probabilities, KL, masks. All per pair."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_dist.contracts import TokenMasks, TokenStats
from sparsepo_dist.objectives.base import BranchSums, Sums


@torch.no_grad()
def preference_metrics(stats: TokenStats, masks: TokenMasks | None, sums: Sums, beta: float) -> dict[str, Tensor]:
    """Name to [P] values.

    Implicit rewards are beta (S[m_u rho] + S[m_d v]); without masks or divergence, those are 1 and 0. KL is a
    positive number in nats per response (`kl`, and `masked_kl` after the mask) or per token (`token_kl`). Where tokens
    were skipped, what needs them (`logps`, `kl`, `token_kl`) is left out.
    """
    metrics: dict[str, Tensor] = {}
    if stats.complete:
        _by_branch(metrics, "logps", sums(stats.policy_logp))
    if stats.reference_logp is None:
        return metrics
    token_reward = stats.policy_logp - stats.reference_logp
    if masks is not None:
        token_reward = masks.reward * token_reward
    if stats.divergence is not None:
        masked = stats.divergence if masks is None else masks.divergence * stats.divergence
        token_reward = token_reward + masked
        if stats.complete:
            _by_branch(metrics, "kl", sums(stats.divergence.abs()))
            _by_branch(metrics, "token_kl", sums.mean(stats.divergence.abs()))
        if masks is not None:
            _by_branch(metrics, "masked_kl", sums(masks.divergence * stats.divergence.abs()))
    rewards = sums(beta * token_reward)
    _by_branch(metrics, "rewards", rewards)
    metrics["rewards/accuracies"] = (rewards.chosen > rewards.rejected).float()
    metrics["rewards/margins"] = rewards.chosen - rewards.rejected
    if masks is not None:
        for name, mask in (("reward_mask", masks.reward), ("divergence_mask", masks.divergence)):
            _by_branch(metrics, f"sparsity/{name}", sums.mean((mask == 0).float()))
            norms = sums(mask.abs())
            metrics[f"l1/{name}"] = norms.chosen + norms.rejected
    return metrics


def _by_branch(metrics: dict[str, Tensor], name: str, values: BranchSums) -> None:
    metrics[f"{name}/chosen"], metrics[f"{name}/rejected"] = values

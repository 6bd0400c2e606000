"""Metrics that every preference objective reports: rewards, log-probabilities, KL, masks. All per pair."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_dist.contracts import TokenMasks, TokenStats
from sparsepo_dist.objectives.base import BranchSums, Sums
from sparsepo_dist.objectives.margins import log_ratios


@torch.no_grad()
def preference_metrics(
    stats: TokenStats, masks: TokenMasks | None, sums: Sums, beta: float, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Name to [P] values.

    Implicit rewards are beta (S[m_u rho] + S[m_d v]); without masks or divergence, those are 1 and 0. KL is a
    positive number in nats per response (`kl`, and `masked_kl` after the mask) or per token (`token_kl`). Where tokens
    were skipped, what needs them (`logps`, `kl`, `token_kl`) is left out. `sparsity/*/pairs` is 1 where a mask is 0 (at
    its floor) on every token of both responses. `weights` [N], of
    an objective without masks, count in the rewards.
    """
    metrics = token_metrics(stats, masks, sums)
    token_reward = log_ratios(stats) if weights is None else weights * log_ratios(stats)
    if masks is not None:
        token_reward = masks.reward * token_reward
    if stats.divergence is not None:
        token_reward = token_reward + (stats.divergence if masks is None else masks.divergence * stats.divergence)
    _reward_metrics(metrics, sums(beta * token_reward))
    return metrics


_OF_TOKENS = ("logps", "kl", "token_kl")


def of_tokens(name: str) -> bool:
    """Whether a metric is one of those that `token_metrics` gives without masks."""
    return name.partition("/")[0] in _OF_TOKENS


@torch.no_grad()
def token_metrics(stats: TokenStats, masks: TokenMasks | None, sums: Sums) -> dict[str, Tensor]:
    """Name to [P] values of what does not depend on the objective: log-probabilities, KL, masks."""
    metrics: dict[str, Tensor] = {}
    if stats.complete:
        by_branch(metrics, "logps", sums(stats.policy_logp))
    if masks is not None:
        _mask_metrics(metrics, "reward_mask", masks.reward == masks.floor, masks.reward, sums)
    if stats.divergence is not None:
        if stats.complete:
            by_branch(metrics, "kl", sums(stats.divergence.abs()))
            by_branch(metrics, "token_kl", sums.mean(stats.divergence.abs()))
        if masks is not None:
            by_branch(metrics, "masked_kl", sums(masks.divergence * stats.divergence.abs()))
            _mask_metrics(metrics, "divergence_mask", masks.divergence == masks.floor, masks.divergence, sums)
    return metrics


@torch.no_grad()
def reference_free_metrics(stats: TokenStats, sums: Sums, rewards: BranchSums) -> dict[str, Tensor]:
    """Name to [P] values of objectives without a reference, which have rewards of their own."""
    metrics: dict[str, Tensor] = {}
    by_branch(metrics, "logps", sums(stats.policy_logp))
    _reward_metrics(metrics, BranchSums(*(reward.detach() for reward in rewards)))
    return metrics


def by_branch(metrics: dict[str, Tensor], name: str, values: BranchSums) -> None:
    """Add NAME/chosen and NAME/rejected, [P] each."""
    metrics[f"{name}/chosen"], metrics[f"{name}/rejected"] = values


def _reward_metrics(metrics: dict[str, Tensor], rewards: BranchSums) -> None:
    by_branch(metrics, "rewards", rewards)
    metrics["rewards/accuracies"] = (rewards.chosen > rewards.rejected).float()
    metrics["rewards/ties"] = (rewards.chosen == rewards.rejected).float()
    metrics["rewards/margins"] = rewards.margin


def _mask_metrics(metrics: dict[str, Tensor], name: str, off: Tensor, mask: Tensor, sums: Sums) -> None:
    by_branch(metrics, f"sparsity/{name}", sums.mean(off.float()))
    on = sums((~off).float())
    metrics[f"sparsity/{name}/pairs"] = (on.chosen + on.rejected == 0).float()
    norms = sums(mask.abs())
    metrics[f"l1/{name}"] = norms.chosen + norms.rejected

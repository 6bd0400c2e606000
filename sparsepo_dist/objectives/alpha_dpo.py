"""AlphaDPO (Wu et al., 2024, arXiv 2410.10148): SimPO whose margin follows how far each pair is from the reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import MOVING_MEANS, ObjectiveOutput, Requirements, Sums, moving_means
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import reference_free_metrics

LEAST_DEVIATION = 1e-3
"""Of M, in nats per token: before the first update M is rounding, which divided by itself would be a margin."""


@dataclass(frozen=True)
class AlphaDPO:
    """-log sigmoid(beta (S_c[logp] / len_c - S_r[logp] / len_r - alpha z) - gamma), z a constant in backward.

    z = (M - mean) / deviation of M = S_c[rho] / len_c - S_r[rho] / len_r over the global batch, both by moving averages
    of M and M^2 (momentum 0.9), this step's among them; in the first step and in evaluation those of the batch.
    """

    beta: float
    gamma: float
    alpha: float

    @property
    def requirements(self) -> Requirements:
        return MOVING_MEANS

    @torch.no_grad()
    def batch_values(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> Tensor:
        """[P, 2]: M and its square of each pair."""
        lead = Sums(responses).mean(log_ratios(stats)).margin
        return torch.stack([lead, lead.square()], dim=-1)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums = Sums(responses)
        rewards = sums.mean(self.beta * stats.policy_logp)
        target = self.gamma + self.beta * self.alpha * self._standardised(stats, sums)
        metrics = reference_free_metrics(stats, sums, rewards)
        return ObjectiveOutput(logistic_loss(rewards.margin - target), {**metrics, "target_margin": target})

    @torch.no_grad()
    def _standardised(self, stats: TokenStats, sums: Sums) -> Tensor:
        """[P]: z."""
        lead = sums.mean(log_ratios(stats)).margin
        mean, square = moving_means(sums.responses).to(lead.dtype)
        deviation = (square - mean.square()).clamp(min=LEAST_DEVIATION**2).sqrt()
        return (lead - mean) / deviation

"""AlphaPO (Gupta et al., 2025, arXiv 2501.03884): SimPO with another shape of the reward."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import BranchSums, ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import deformed, logistic_loss
from sparsepo_dist.objectives.metrics import reference_free_metrics


@dataclass(frozen=True)
class AlphaPO:
    """-log sigmoid(r_c - r_r - gamma), r = beta (1 - e^(-alpha a)) / alpha, a = S[log pi] / len; SimPO at alpha 0."""

    beta: float
    gamma: float
    alpha: float

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=False, divergence=None, masks=None)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums = Sums(responses)
        rewards = BranchSums(*(self.beta * deformed(mean, self.alpha) for mean in sums.mean(stats.policy_logp)))
        losses = logistic_loss(rewards.margin - self.gamma)
        return ObjectiveOutput(losses, reference_free_metrics(stats, sums, rewards))

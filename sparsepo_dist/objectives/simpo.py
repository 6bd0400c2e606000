"""SimPO (Meng et al., 2024, arXiv 2405.14734): mean log-probabilities as rewards, no reference."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import logistic_loss
from sparsepo_dist.objectives.metrics import reference_free_metrics


@dataclass(frozen=True)
class SimPO:
    """-log sigmoid(beta / len_c S_c[logp] - beta / len_r S_r[logp] - gamma)."""

    beta: float
    gamma: float

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=False, divergence=None, masks=None)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums = Sums(responses)
        rewards = sums.mean(self.beta * stats.policy_logp)
        return ObjectiveOutput(logistic_loss(rewards.margin - self.gamma), reference_free_metrics(stats, sums, rewards))

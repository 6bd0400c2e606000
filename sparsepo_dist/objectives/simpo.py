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
        losses = logistic_loss(self.beta * sums.mean(stats.policy_logp).margin - self.gamma)
        return ObjectiveOutput(losses, reference_free_metrics(stats, sums, self.beta))

"""SparsePO and MaPO (arXiv 2410.05102, Eq. 6-8): token masks over the log-ratio and over the divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics
from sparsepo_dist.ops import AlphaDivergence, Divergence, DivergenceForm


@dataclass(frozen=True)
class SparsePO:
    """-log sigmoid(beta (S_c[m_u rho] - S_r[m_u rho] - (S_c[m_d v] - S_r[m_d v]))) + L1 of learned masks.

    With `divergence` "policy" v is the reverse KL (the paper); with "reference" v = -KL(pi_ref || pi) (as released,
    and equal to TDPO v1 where both masks are 1); with "alpha" the alpha-divergence of order `alpha`. With a common mask
    each L1 coefficient counts half.
    """

    beta: float
    divergence: DivergenceForm | Literal["alpha"]
    masks: str
    alpha: float | None = None
    l1_reward: float = 0.0
    l1_divergence: float = 0.0

    @property
    def requirements(self) -> Requirements:
        divergence: Divergence
        if self.divergence == "alpha":
            assert self.alpha is not None
            divergence = AlphaDivergence(self.alpha)
        else:
            divergence = self.divergence
        return Requirements(reference=True, divergence=divergence, masks=self.masks)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        assert stats.divergence is not None and masks is not None
        sums = Sums(responses)
        preference = sums(masks.reward * log_ratios(stats) - masks.divergence * stats.divergence)
        losses = logistic_loss(self.beta * preference.margin)
        if self.l1_reward or self.l1_divergence:
            share = 0.5 if masks.common else 1.0
            norms = sums(share * (self.l1_reward * masks.reward.abs() + self.l1_divergence * masks.divergence.abs()))
            losses = losses + norms.chosen + norms.rejected
        return ObjectiveOutput(losses, preference_metrics(stats, masks, sums, self.beta))

"""TIS-DPO (Liu et al., 2024, arXiv 2410.04350): tokens weigh by what two oracles make of them."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class TISDPO:
    """-log sigmoid(beta (S_c[w rho] - S_r[w rho] - alpha (S_c[w R] - S_r[w R]))), w the masks, R = KL(pi || pi_ref).

    With alpha 1 it is SparsePO's loss with both masks w; with 0 nothing of R is computed.
    """

    beta: float
    alpha: float

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence="policy" if self.alpha else None, masks="contrast")

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        assert masks is not None
        sums = Sums(responses)
        preference = masks.reward * log_ratios(stats)
        if stats.divergence is not None:
            preference = preference - self.alpha * masks.divergence * stats.divergence
        losses = logistic_loss(self.beta * sums(preference).margin)
        return ObjectiveOutput(losses, preference_metrics(stats, masks, sums, self.beta))

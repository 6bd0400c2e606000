"""DPO whose tokens an oracle selects or weighs: SePO (Yang et al., 2024, arXiv 2408.13518) and TGDPO (Zhu et al., 2025,
arXiv 2506.14574)."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class OracleDPO:
    """-log sigmoid(beta (S_c[m rho] - S_r[m rho])), m the mask of an oracle: 1 for a selected token, else 0.

    The selection is SePO's; its loss has no reference and averages log pi over the selected tokens instead. With
    `masks` guided m is TGDPO's: 1 + g r of a chosen response's token and 1 - g r of a rejected one's, r the oracle's
    log-ratio to the reference.
    """

    beta: float
    masks: str

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence=None, masks=self.masks)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        assert masks is not None
        sums = Sums(responses)
        losses = logistic_loss(self.beta * sums(masks.reward * log_ratios(stats)).margin)
        return ObjectiveOutput(losses, preference_metrics(stats, masks, sums, self.beta))

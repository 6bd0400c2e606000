"""DPO on the tokens that an oracle selected, as in SePO (Yang et al., 2024, arXiv 2408.13518)."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class SePO:
    """-log sigmoid(beta (S_c[m rho] - S_r[m rho])), m = 1 for a selected token, else 0.

    The selection is the paper's; its loss has no reference and averages log pi over the selected tokens instead.
    """

    beta: float

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence=None, masks="oracle")

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        assert masks is not None
        sums = Sums(responses)
        losses = logistic_loss(self.beta * sums(masks.reward * log_ratios(stats)).margin)
        return ObjectiveOutput(losses, preference_metrics(stats, masks, sums, self.beta))

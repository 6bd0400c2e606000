"""DPO-Positive (Pal et al., 2024, arXiv 2402.13228): the chosen response must not become less likely."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class DPOP:
    """-log sigmoid(beta (S_c[rho] - S_r[rho] - penalty max(0, -S_c[rho])))."""

    beta: float
    penalty: float

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence=None, masks=None)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums = Sums(responses)
        rho = sums(log_ratios(stats))
        losses = logistic_loss(self.beta * (rho.margin - self.penalty * torch.relu(-rho.chosen)))
        return ObjectiveOutput(losses, preference_metrics(stats, None, sums, self.beta))

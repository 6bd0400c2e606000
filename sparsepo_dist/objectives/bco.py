"""BCO (Jung et al., 2024, arXiv 2404.04656) on pairs: each response is told from the mean reward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import MOVING_MEANS, ObjectiveOutput, Requirements, Sums, moving_means
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class BCO:
    """-log sigmoid(r_c - d) - log sigmoid(d - r_r), r = beta S[rho].

    d, a constant in backward, is the moving average (momentum 0.9) over training steps of the mean reward of all
    responses of the global batch, this step's among them; in the first step and in evaluation that mean itself.
    """

    beta: float

    @property
    def requirements(self) -> Requirements:
        return MOVING_MEANS

    @torch.no_grad()
    def batch_values(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> Tensor:
        """[P, 1]: mean reward of each pair's two responses."""
        rho = Sums(responses)(log_ratios(stats))
        return (self.beta * (rho.chosen + rho.rejected) / 2)[:, None]

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums = Sums(responses)
        rho = sums(log_ratios(stats))
        (shift,) = moving_means(responses).to(rho.chosen.dtype)
        losses = logistic_loss(self.beta * rho.chosen - shift) + logistic_loss(shift - self.beta * rho.rejected)
        metrics = preference_metrics(stats, None, sums, self.beta)
        return ObjectiveOutput(losses, {**metrics, "shift": shift.expand_as(losses)})

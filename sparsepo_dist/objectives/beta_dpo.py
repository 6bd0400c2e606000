"""Beta-DPO (Wu et al., 2024, arXiv 2407.08639): beta follows the margins of the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import MOVING_MEANS, ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics

LEAST_BETA = 1e-3
"""Floor of the dynamic beta, from the authors' code: below 0 it would turn the loss round."""


@dataclass(frozen=True)
class BetaDPO:
    """-log sigmoid(b (S_c[rho] - S_r[rho])), b = max(0.001, beta (1 + alpha (mean M - M_0))), a constant in backward.

    M = beta (S_c[rho] - S_r[rho]) of a pair, its mean taken over the global batch; M_0 is the moving average of the
    earlier training steps' means, momentum 0.9. In the first step and in evaluation there is no M_0 and b = beta.
    """

    beta: float
    alpha: float

    @property
    def requirements(self) -> Requirements:
        return MOVING_MEANS

    @torch.no_grad()
    def batch_values(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> Tensor:
        """[P, 1]: M of each pair."""
        return self.beta * Sums(responses)(log_ratios(stats)).margin[:, None]

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums = Sums(responses)
        margin = sums(log_ratios(stats)).margin
        beta = self._dynamic_beta(responses, like=margin)
        metrics = preference_metrics(stats, None, sums, self.beta)
        return ObjectiveOutput(logistic_loss(beta * margin), {**metrics, "beta": beta})

    @torch.no_grad()
    def _dynamic_beta(self, responses: Responses, like: Tensor) -> Tensor:
        """[P], the same for every pair."""
        if responses.history is None:
            return torch.full_like(like, self.beta)
        assert responses.global_means is not None
        lead = (responses.global_means - responses.history).to(like.dtype)
        return (self.beta * (1 + self.alpha * lead)).clamp(min=LEAST_BETA).expand_as(like)

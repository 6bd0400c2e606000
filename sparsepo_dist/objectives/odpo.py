"""DPO with an offset (Amini et al., 2024, arXiv 2402.10571): the margin must exceed what the scores differ by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class ODPO:
    """-log sigmoid(beta (S_c[rho] - S_r[rho]) - alpha log(score_c - score_r)).

    Where the policy is the reference, that is log(1 + (score_c - score_r)^alpha).
    """

    beta: float
    alpha: float

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence=None, masks=None, scores=True)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        assert responses.scores is not None
        sums = Sums(responses)
        offset = self._offset(responses.scores.to(stats.policy_logp.dtype))
        losses = logistic_loss(self.beta * sums(log_ratios(stats)).margin - offset)
        return ObjectiveOutput(losses, preference_metrics(stats, None, sums, self.beta))

    def _offset(self, scores: Tensor) -> Tensor:
        """[P] from scores [P, 2] of which the first is the higher."""
        # Scores that differ in the data may be equal in float32.
        lead = (scores[:, 0] - scores[:, 1]).clamp(min=torch.finfo(scores.dtype).tiny)
        return self.alpha * lead.log()

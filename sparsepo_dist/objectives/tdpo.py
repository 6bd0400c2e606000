"""Token-level DPO (Zeng et al., 2024, arXiv 2404.11999): sequence KL under the reference beside the log-ratio."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class TDPO:
    """v1: -log sigmoid(beta (u - (S_r[F] - S_c[F]))); v2: -log sigmoid(beta (u - alpha (S_r[F] - sg S_c[F]))).

    u = S_c[rho] - S_r[rho], F = KL(pi_ref || pi). `alpha` None is version 1.
    """

    beta: float
    alpha: float | None = None

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence="reference", masks=None)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        assert stats.divergence is not None
        sums = Sums(responses)
        u = sums(log_ratios(stats)).margin
        kl = sums(-stats.divergence)
        if self.alpha is None:
            logits = u - (kl.rejected - kl.chosen)
        else:
            logits = u - self.alpha * (kl.rejected - kl.chosen.detach())
        losses = logistic_loss(self.beta * logits)
        return ObjectiveOutput(losses, preference_metrics(stats, None, sums, self.beta))

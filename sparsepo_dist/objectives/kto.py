"""Kahneman-Tversky optimisation (Ethayarajh et al., 2024, arXiv 2402.01306) on pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import BranchSums, ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios
from sparsepo_dist.objectives.metrics import by_branch, preference_metrics


@dataclass(frozen=True)
class KTO:
    """(w_d (1 - sigmoid(beta (S_c[rho] - z_c))) + w_u (1 - sigmoid(beta (z_r - S_r[rho])))) / 2.

    z_c = max(0, mean S_r[rho]) and z_r = max(0, mean S_c[rho]) estimate KL(pi || pi_ref), each from the other half of
    the global batch, as TRL's former `kto_pair`; they are constants in backward, as in the paper. The mean over P pairs
    is the paper's mean over 2 P responses.
    """

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence=None, masks=None, global_means=True)

    @torch.no_grad()
    def batch_values(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> Tensor:
        """[P, 2]: S_c[rho] and S_r[rho] of each pair."""
        return torch.stack(Sums(responses)(log_ratios(stats)), dim=-1)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        assert responses.global_means is not None
        sums = Sums(responses)
        rho = sums(log_ratios(stats))
        mean_chosen, mean_rejected = responses.global_means.detach().to(rho.chosen.dtype).clamp(min=0)
        # 1 - sigmoid(x) is sigmoid(-x), which keeps its digits where x is large.
        chosen = torch.sigmoid(self.beta * (mean_rejected - rho.chosen))
        rejected = torch.sigmoid(self.beta * (rho.rejected - mean_chosen))
        losses = (self.desirable_weight * chosen + self.undesirable_weight * rejected) / 2
        metrics = preference_metrics(stats, None, sums, self.beta)
        estimates = BranchSums(mean_rejected.expand_as(losses), mean_chosen.expand_as(losses))
        by_branch(metrics, "kl_estimate", estimates)
        return ObjectiveOutput(losses, metrics)

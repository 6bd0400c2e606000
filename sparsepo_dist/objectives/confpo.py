"""ConfPO (Yoon et al., 2025, arXiv 2506.08712): SimPO on the tokens that the policy is least sure of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import BranchSums, ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import logistic_loss, weighed
from sparsepo_dist.objectives.metrics import by_branch, reference_free_metrics


@dataclass(frozen=True)
class ConfPO:
    """-log sigmoid(r_c - r_r - gamma), r = beta S[m log pi] / S[m], m = 1 where pi is below its mean over the response.

    A pair of which one response has no such token, as where it has one token, adds 0.
    """

    beta: float
    gamma: float

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=False, divergence=None, masks=None, weighs=True)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums = Sums(responses)
        unsure = self._unsure(stats.policy_logp, sums)
        counts, totals = sums(unsure), sums(unsure * weighed(stats, masks).policy_logp)
        parts = zip(totals, counts, strict=True)
        rewards = BranchSums(*(self.beta * total / count.clamp(min=1) for total, count in parts))
        losses = logistic_loss(rewards.margin - self.gamma)
        metrics = reference_free_metrics(stats, sums, rewards)
        by_branch(metrics, "unsure", sums.mean(unsure))
        return ObjectiveOutput(losses * ((counts.chosen > 0) & (counts.rejected > 0)), metrics)

    @torch.no_grad()
    def _unsure(self, logp: Tensor, sums: Sums) -> Tensor:
        """[N]: 1 for tokens less likely than their response's tokens on average, else 0."""
        likelihood = logp.exp()
        mean = torch.stack(sums.mean(likelihood), dim=-1).flatten()
        return (likelihood < mean[sums.responses.sequence_id]).to(logp.dtype)

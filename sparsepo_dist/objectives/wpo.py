"""WPO (Zhou et al., 2024, arXiv 2406.11827): pairs weigh by how likely the policy itself is to say them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.dpo import DPO
from sparsepo_dist.objectives.margins import weighed


@dataclass(frozen=True)
class WPO(DPO):
    """w L, L the loss of `dpo` of the same form, w = sg exp(S_c[a] / len_c + S_r[a] / len_r).

    a = log pi(y) - log of the sum of pi^2 over the vocabulary: 0 on average over what the policy samples by itself.
    """

    @property
    def requirements(self) -> Requirements:
        return super().requirements._replace(weighs=True, squares=True)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        losses, metrics = super().__call__(weighed(stats, masks), None, responses)
        weights = self._weights(stats, responses)
        return ObjectiveOutput(weights * losses, {**metrics, "on_policy_weight": weights})

    @torch.no_grad()
    def _weights(self, stats: TokenStats, responses: Responses) -> Tensor:
        """[P]: w, of all tokens, whatever masks make of them."""
        assert stats.log_squares is not None and stats.complete
        aligned = Sums(responses).mean(stats.policy_logp - stats.log_squares)
        return (aligned.chosen + aligned.rejected).exp()

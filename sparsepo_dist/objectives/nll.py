"""The likelihood of the chosen response beside any preference loss (Pang et al., 2024, arXiv 2404.19733)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import BatchObjective, Objective, ObjectiveOutput, Requirements, Sums


@dataclass(frozen=True)
class WithLikelihood:
    """preference - nll_weight S_c[log pi] / len_c, the second term over all tokens, whatever masks there are."""

    preference: Objective
    nll_weight: float

    @property
    def requirements(self) -> Requirements:
        """Those of the preference loss, and every token's log-probability."""
        return self.preference.requirements._replace(all_tokens=True)

    def batch_values(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> Tensor:
        """[P, K]: what the preference loss needs means of, where it needs them."""
        return cast(BatchObjective, self.preference).batch_values(stats, masks, responses)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        assert stats.complete
        losses, metrics = self.preference(stats, masks, responses)
        nll = -Sums(responses).mean(stats.policy_logp).chosen
        return ObjectiveOutput(losses + self.nll_weight * nll, {**metrics, "nll_loss": nll.detach()})

"""Supervised fine-tuning on chosen responses: the start of every run in the paper."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums


@dataclass(frozen=True)
class SFT:
    """Mean over the chosen response's tokens of -log pi; 0 for an empty response."""

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=False, divergence=None, masks=None, rejected=False)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums = Sums(responses)
        metrics = {"logps/chosen": sums(stats.policy_logp).chosen.detach()}
        return ObjectiveOutput(-sums.mean(stats.policy_logp).chosen, metrics)

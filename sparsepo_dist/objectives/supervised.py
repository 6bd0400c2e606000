"""Supervised fine-tuning on chosen responses: the start of every run in the paper."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsepo_dist.contracts import TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums


@dataclass(frozen=True)
class SFT:
    """Mean over the chosen response's tokens of -log pi."""

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=False, divergence=None, masks=None, rejected=False)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, sequence_id: Tensor, pairs: int) -> ObjectiveOutput:
        sums = Sums(sequence_id, pairs)
        chosen = sums(stats.policy_logp).chosen
        return ObjectiveOutput(-chosen / sums.lengths.chosen, {"logps/chosen": chosen.detach()})

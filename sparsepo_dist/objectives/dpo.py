"""Direct preference optimisation (Rafailov et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from sparsepo_dist.contracts import TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class DPO:
    """-log sigmoid(beta (S_c[rho] - S_r[rho]))."""

    beta: float

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence=None, masks=None, rejected=True)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, sequence_id: Tensor, pairs: int) -> ObjectiveOutput:
        assert stats.reference_logp is not None
        sums = Sums(sequence_id, pairs)
        log_ratio = sums(stats.policy_logp - stats.reference_logp)
        losses = -F.logsigmoid(self.beta * (log_ratio.chosen - log_ratio.rejected))
        return ObjectiveOutput(losses, preference_metrics(stats, None, sums, self.beta))

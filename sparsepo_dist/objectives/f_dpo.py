"""f-DPO (Wang et al., 2023, arXiv 2309.16240): other divergences from the reference than the reverse KL."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import BranchSums, ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.config import FDivergence
from sparsepo_dist.objectives.margins import deformed, log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class FDPO:
    """-log sigmoid(beta (g(S_c[rho]) - g(S_r[rho]))), g(x) = f'(e^x) up to a constant.

    alpha: g(x) = (1 - e^(-alpha x)) / alpha; reverse KL, which is DPO, at 0, and forward KL at 1.
    js: g(x) = log(2 e^x / (1 + e^x)), the Jensen-Shannon divergence.
    """

    beta: float
    f_divergence: FDivergence
    alpha: float

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence=None, masks=None)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums = Sums(responses)
        scores = BranchSums(*(self._score(part) for part in sums(log_ratios(stats))))
        return ObjectiveOutput(
            logistic_loss(self.beta * scores.margin), preference_metrics(stats, None, sums, self.beta)
        )

    def _score(self, ratio: Tensor) -> Tensor:
        return math.log(2) + F.logsigmoid(ratio) if self.f_divergence == "js" else deformed(ratio, self.alpha)

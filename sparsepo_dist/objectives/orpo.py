"""ORPO (Hong et al., 2024, arXiv 2403.07691): supervised fine-tuning and an odds ratio, no reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import BranchSums, ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import logistic_loss, weighed
from sparsepo_dist.objectives.metrics import reference_free_metrics


@dataclass(frozen=True)
class ORPO:
    """-a_c - beta log sigmoid(log odds(a_c) - log odds(a_r)), a = S[logp] / len, odds(a) = e^a / (1 - e^a).

    The paper's lambda is `beta`. The first term is over the chosen response's tokens, as in the paper; masks, where
    there are any, weigh in the odds alone: a = S[m_u logp] / len.
    """

    beta: float

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=False, divergence=None, masks=None, weighs=True)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums = Sums(responses)
        logps = weighed(stats, masks).policy_logp
        mean, nll = sums.mean(logps), -sums.mean(stats.policy_logp).chosen
        log_odds = BranchSums(*(part - _log1mexp(part) for part in mean)).margin
        ratio = logistic_loss(log_odds)
        metrics = {
            **reference_free_metrics(stats, sums, sums.mean(self.beta * logps)),
            "nll_loss": nll.detach(),
            "log_odds_chosen": log_odds.detach(),
            "log_odds_ratio": -ratio.detach(),
        }
        return ObjectiveOutput(nll + self.beta * ratio, metrics)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) of x <= 0, elementwise; finite at 0, too: x counts as -eps where e^x is 1 to rounding."""
    # expm1 keeps the digits where x is near 0; further off 1 - e^x has lost none that would show beside x.
    return torch.log(-torch.expm1(x.clamp(max=-torch.finfo(x.dtype).eps)))

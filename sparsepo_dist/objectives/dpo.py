"""Direct preference optimisation (Rafailov et al., 2023, arXiv 2305.18290) and its forms: hinge, IPO, noisy labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, PreferenceForm, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class DPO:
    """A loss of the margin h = beta (S_c[rho] - S_r[rho]); e is `label_smoothing`, l(h) = -log sigmoid(h).

    sigmoid: (1 - e) l(h) + e l(-h), DPO where e = 0, else conservative DPO (Mitchell, 2023).
    robust: ((1 - e) l(h) - e l(-h)) / (1 - 2 e), rDPO (Chowdhury et al., 2024, arXiv 2403.00409).
    hinge: max(0, 1 - h), as in SLiC-HF (Zhao et al., 2023, arXiv 2305.10425).
    ipo: (S_c[rho] / len_c - S_r[rho] / len_r - 1 / (2 beta))^2, IPO (Azar et al., 2023, arXiv 2310.12036) averaged over
    tokens.
    """

    beta: float
    form: PreferenceForm = "sigmoid"
    label_smoothing: float = 0.0

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence=None, masks=None)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums, rho = Sums(responses), log_ratios(stats)
        if self.form == "ipo":
            losses = (sums.mean(rho).margin - 1 / (2 * self.beta)) ** 2
        else:
            losses = self._of_margin(self.beta * sums(rho).margin)
        return ObjectiveOutput(losses, preference_metrics(stats, None, sums, self.beta))

    def _of_margin(self, margin: Tensor) -> Tensor:
        if self.form == "hinge":
            return torch.relu(1 - margin)
        losses, wrong = logistic_loss(margin), self.label_smoothing
        if wrong == 0:
            return losses
        # l(-h) = l(h) + h, so both mixtures of l(h) and l(-h) are l(h) and a multiple of h.
        return losses + (-wrong / (1 - 2 * wrong) if self.form == "robust" else wrong) * margin

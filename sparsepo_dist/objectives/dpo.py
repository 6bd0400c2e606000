"""Direct preference optimisation (Rafailov et al., 2023, arXiv 2305.18290) and the losses that take its place."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.config import PreferenceForm
from sparsepo_dist.objectives.forms import FORMS, FormTerms
from sparsepo_dist.objectives.margins import log_ratios
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class DPO:
    """A loss of S_c[rho] and S_r[rho]: which one, `form` says (forms.py)."""

    beta: float
    form: PreferenceForm = "sigmoid"
    label_smoothing: float = 0.0
    tau: float = 0.05

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence=None, masks=None)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums, rho = Sums(responses), log_ratios(stats)
        terms = FormTerms(self.beta, self.label_smoothing, self.tau, sums, rho, sums(rho))
        return ObjectiveOutput(FORMS[self.form](terms), preference_metrics(stats, None, sums, self.beta))

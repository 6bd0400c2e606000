"""Losses of a pair's two log-ratios: what `objective.form` makes of DPO. Formulas and sources: docs/objectives.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.objectives.base import BranchSums, Sums
from sparsepo_dist.objectives.config import PreferenceForm
from sparsepo_dist.objectives.margins import logistic_loss


@dataclass(frozen=True)
class FormTerms:
    """What a form is a function of."""

    beta: float
    label_smoothing: float
    tau: float
    responses: Sums
    rho: Tensor
    """[N]: log-ratio of each token."""
    sums: BranchSums
    """S_c[rho] and S_r[rho], [P] each, in nats."""

    @property
    def means(self) -> BranchSums:
        """The same per token of the response; 0 for an empty one."""
        return self.responses.mean(self.rho)

    @property
    def rewards(self) -> BranchSums:
        """[P] each: beta S_c[rho] and beta S_r[rho]."""
        return BranchSums(*(self.beta * part for part in self.sums))

    @property
    def margin(self) -> Tensor:
        """[P]: h = beta (S_c[rho] - S_r[rho])."""
        return self.beta * self.sums.margin


def _sigmoid(terms: FormTerms) -> Tensor:
    # l(-h) = l(h) + h, so that (1 - e) l(h) + e l(-h) is l(h) + e h; the same holds of `robust`.
    losses, wrong = logistic_loss(terms.margin), terms.label_smoothing
    return losses + wrong * terms.margin if wrong else losses


def _robust(terms: FormTerms) -> Tensor:
    losses, wrong = logistic_loss(terms.margin), terms.label_smoothing
    return losses - wrong / (1 - 2 * wrong) * terms.margin if wrong else losses


def _hinge(terms: FormTerms) -> Tensor:
    return torch.relu(1 - terms.margin)


def _ipo(terms: FormTerms) -> Tensor:
    return (terms.means.margin - 1 / (2 * terms.beta)) ** 2


def _ipo_sum(terms: FormTerms) -> Tensor:
    return (terms.sums.margin - 1 / (2 * terms.beta)) ** 2


def _norm(terms: FormTerms) -> Tensor:
    return logistic_loss(terms.beta * terms.means.margin)


def _exo(terms: FormTerms) -> Tensor:
    margin, wrong = terms.margin, terms.label_smoothing
    right = torch.sigmoid(margin) * (math.log1p(-wrong) + logistic_loss(margin))
    return -right - torch.sigmoid(-margin) * (math.log(wrong) + logistic_loss(-margin))


def _nca(terms: FormTerms) -> Tensor:
    chosen, rejected = terms.rewards
    return logistic_loss(chosen) + (logistic_loss(-chosen) + logistic_loss(-rejected)) / 2


def _bco_pair(terms: FormTerms) -> Tensor:
    return logistic_loss(terms.rewards.chosen) + logistic_loss(-terms.rewards.rejected)


def _sppo(terms: FormTerms) -> Tensor:
    wanted = 1 / (2 * terms.beta)
    return (terms.sums.chosen - wanted) ** 2 + (terms.sums.rejected + wanted) ** 2


def _apo_zero(terms: FormTerms) -> Tensor:
    return torch.sigmoid(-terms.rewards.chosen) + torch.sigmoid(terms.rewards.rejected)


def _apo_down(terms: FormTerms) -> Tensor:
    return torch.sigmoid(terms.rewards.chosen) + torch.sigmoid(-terms.margin)


def _discopop(terms: FormTerms) -> Tensor:
    margin, scaled = terms.margin, terms.margin / terms.tau
    # The product of a vanishing sigmoid and an exponential that overflows is taken in logarithms.
    return torch.sigmoid(-scaled) * logistic_loss(margin) + torch.exp(-logistic_loss(scaled) - margin)


FORMS: dict[PreferenceForm, Callable[[FormTerms], Tensor]] = {
    "sigmoid": _sigmoid, "hinge": _hinge, "ipo": _ipo, "robust": _robust, "ipo_sum": _ipo_sum, "norm": _norm,
    "exo": _exo, "nca": _nca, "bco_pair": _bco_pair, "sppo": _sppo, "apo_zero": _apo_zero, "apo_down": _apo_down,
    "discopop": _discopop,
}  # fmt: skip

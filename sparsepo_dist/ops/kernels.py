"""What a backend does to one tile of logits, and what the sums of a row mean.

Shapes: n rows, w vocabulary entries of a tile.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sparsepo_dist.ops.config import DivergenceForm


class AlphaDivergence(NamedTuple):
    """(1 - sum of pi^alpha pi_ref^(1 - alpha)) / (alpha (1 - alpha)) over the vocabulary, at least 0.

    Between KL(pi_ref || pi), which it nears at 0, and KL(pi || pi_ref), which it nears at 1; at 0.5 four times the
    squared Hellinger distance.
    """

    alpha: float
    """Between 0 and 1, both excluded: elsewhere the sum has no bound."""


Divergence = DivergenceForm | AlphaDivergence
"""What the third statistic of a token is."""

_FORMS = ("policy", "reference")


def form_of(divergence: Divergence | None) -> tuple[int, float]:
    """The divergence's code in operators and in csrc/masked_kl.h, and the alpha of one that has it, else 0."""
    if isinstance(divergence, AlphaDivergence):
        return len(_FORMS) + 1, divergence.alpha
    return 0 if divergence is None else _FORMS.index(divergence) + 1, 0.0


def divergence_of(form: int, alpha: float) -> Divergence | None:
    """What `form_of` is the code of."""
    if form > len(_FORMS):
        return AlphaDivergence(alpha)
    return ("policy" if form == 1 else "reference") if form else None


COLUMNS = 8
"""Of a state, float64 [n, 8]; csrc/masked_kl.h has the same as RowState."""
POLICY_TOP, POLICY_SUM, POLICY_LABEL, REFERENCE_TOP, REFERENCE_SUM, REFERENCE_LABEL, RATIO_SUM, SQUARE_SUM = range(
    COLUMNS
)
"""Largest logit; sum of exp(logit - top); the label's logit; the same of the reference; sum of exp(logit - top) (z - y)
under the form's distribution, z being the policy's logits and y the reference's, or, of an AlphaDivergence, sum of
exp(alpha (z - top) + (1 - alpha) (y - top)), each its own top; sum of exp(2 (z - top)) where it is asked for."""


class LogitMap(NamedTuple):
    """What a model does to each product x of hidden row and head: its logit is z = cap tanh(scale x / cap).

    Wherever a model caps first and scales then, or divides, this says it too.
    """

    scale: float = 1.0
    """Above 0."""
    cap: float = math.inf
    """Above 0; infinite where z is scale x."""

    def logits(self, products: Tensor) -> Tensor:
        """z of products of any shape: the very tensor where z is x."""
        if self == PLAIN:
            return products
        scaled = products * self.scale
        return scaled if math.isinf(self.cap) else self.cap * (scaled / self.cap).tanh()

    def slope(self, products: Tensor) -> Tensor | float:
        """dz/dx: as many as there are products; one number where all are the same."""
        if math.isinf(self.cap):
            return self.scale
        # Not 1 - tanh^2, which has no digits left where the cap has been reached.
        return self.scale / (products * (self.scale / self.cap)).cosh().square()


PLAIN = LogitMap()
"""Of a model whose logits are the head's products."""


class Tile(NamedTuple):
    """Products of n hidden rows and the head, over the vocabulary entries first .. first + w - 1."""

    policy: Tensor
    """[n, w], contiguous."""
    reference: Tensor | None
    """[n, w], of the policy's dtype."""
    labels: Tensor
    """[n] int64, entries of the whole vocabulary."""
    first: int
    policy_map: LogitMap = PLAIN
    """Makes the policy's logits of its products, in float32 (float64 for float64 products)."""
    reference_map: LogitMap = PLAIN


class Upstream(NamedTuple):
    """Upstream gradients of n rows, float32 (float64 for float64 logits)."""

    logp: Tensor
    """[n], of the label's log-probability."""
    divergence: Tensor | None
    """[n], of the divergence."""


class TileKernels(Protocol):
    """Folds tiles into states, and turns them into gradients."""

    name: str

    def forward(self, tile: Tile, divergence: Divergence | None, state: Tensor, *, squares: bool = False) -> None:
        """Fold a tile into `state` [n, 8], in place; with `squares` its last column as well."""
        ...

    def backward(
        self, tile: Tile, divergence: Divergence | None, state: Tensor, upstream: Upstream, out: Tensor
    ) -> None:
        """Write the gradient of the policy's products into `out` [n, w], which may be `tile.policy` itself.

        With p and r the two distributions: d logp / dz = onehot - p;
        d v / dz = p (z - y - E_p[z - y]) under the policy, r - p under the reference, p (S - (r / p)^(1 - alpha)) /
        (1 - alpha) of an AlphaDivergence whose sum is S; times dz/dx of the policy's map.

        Args:
            tile: the products once more; its reference may be None where `divergence` is.
            divergence: None where `upstream.divergence` is.
            state: [n, 8] after every tile has been folded.
            upstream: of these rows.
            out: [n, w].
        """
        ...


def new_state(rows: int, like: Tensor) -> Tensor:
    """[rows, 8] float64 with nothing folded yet, on the device of `like`."""
    state = like.new_zeros(rows, COLUMNS, dtype=torch.float64)
    state[:, (POLICY_TOP, REFERENCE_TOP)] = -torch.inf
    return state


def log_mixed(state: Tensor, alpha: float) -> Tensor:
    """[n]: log of the sum of pi^alpha pi_ref^(1 - alpha), at most 0; exactly 0 where the models agree."""
    mixed = state[:, RATIO_SUM].log()
    return alpha * (mixed - state[:, POLICY_SUM].log()) + (1 - alpha) * (mixed - state[:, REFERENCE_SUM].log())


def finish(
    state: Tensor, has_reference: bool, divergence: Divergence | None, *, squares: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(policy_logp, reference_logp, divergence, log of the sum of squares), float64 [n] in nats; empty where undefined.

    A divergence that rounding took below 0 is 0.
    """
    lse = state[:, POLICY_TOP] + state[:, POLICY_SUM].log()
    logp = state[:, POLICY_LABEL] - lse
    none = logp[:0]
    log_squares = state[:, SQUARE_SUM].log() - 2 * state[:, POLICY_SUM].log() if squares else none
    if not has_reference:
        return logp, none, none, log_squares
    ref_lse = state[:, REFERENCE_TOP] + state[:, REFERENCE_SUM].log()
    ref_logp = state[:, REFERENCE_LABEL] - ref_lse
    if divergence is None:
        return logp, ref_logp, none, log_squares
    if isinstance(divergence, AlphaDivergence):
        alpha = divergence.alpha
        value = (-log_mixed(state, alpha).expm1() / (alpha * (1 - alpha))).clamp(min=0.0)
    else:
        mean = state[:, RATIO_SUM] / state[:, POLICY_SUM if divergence == "policy" else REFERENCE_SUM]
        value = mean - (lse - ref_lse)
        value = value.clamp(min=0.0) if divergence == "policy" else value.clamp(max=0.0)
    return logp, ref_logp, value, log_squares

"""What a backend does to one tile of logits, and what the sums of a row mean.

Shapes: n rows, w vocabulary entries of a tile.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

DivergenceForm = Literal["policy", "reference"]
"""The distribution that the log-ratio is averaged under: `policy` gives KL(pi || pi_ref), the paper's Eq. 6-8;
`reference` gives -KL(pi_ref || pi), the released implementation."""

FORMS: tuple[DivergenceForm | None, ...] = (None, "policy", "reference")
"""A form's place here is its code in operators and in csrc/masked_kl.h."""

# Columns of a state, float64 [n, 7]; csrc/masked_kl.h has the same as RowState.
POLICY_TOP, POLICY_SUM, POLICY_LABEL, REFERENCE_TOP, REFERENCE_SUM, REFERENCE_LABEL, RATIO_SUM = range(7)
"""Largest logit; sum of exp(logit - top); the label's logit; the same of the reference; sum of exp(logit - top) (z - y)
under the form's distribution, z being the policy's logits and y the reference's."""


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

    def forward(self, tile: Tile, form: DivergenceForm | None, state: Tensor) -> None:
        """Fold a tile into `state` [n, 7], in place."""
        ...

    def backward(self, tile: Tile, form: DivergenceForm | None, state: Tensor, upstream: Upstream, out: Tensor) -> None:
        """Write the gradient of the policy's products into `out` [n, w], which may be `tile.policy` itself.

        With p and r the two distributions: d logp / dz = onehot - p;
        d v / dz = p (z - y - E_p[z - y]) under the policy, r - p under the reference; times dz/dx of the policy's map.

        Args:
            tile: the products once more; its reference may be None where `form` is.
            form: of the divergence, None where `upstream.divergence` is.
            state: [n, 7] after every tile has been folded.
            upstream: of these rows.
            out: [n, w].
        """
        ...


def new_state(rows: int, like: Tensor) -> Tensor:
    """[rows, 7] float64 with nothing folded yet, on the device of `like`."""
    state = like.new_zeros(rows, 7, dtype=torch.float64)
    state[:, (POLICY_TOP, REFERENCE_TOP)] = -torch.inf
    return state


def finish(state: Tensor, has_reference: bool, form: DivergenceForm | None) -> tuple[Tensor, Tensor, Tensor]:
    """(policy_logp, reference_logp, divergence), float64 [n] in nats; empty where undefined.

    A KL that rounding took below 0 is 0.
    """
    lse = state[:, POLICY_TOP] + state[:, POLICY_SUM].log()
    logp = state[:, POLICY_LABEL] - lse
    if not has_reference:
        return logp, logp[:0], logp[:0]
    ref_lse = state[:, REFERENCE_TOP] + state[:, REFERENCE_SUM].log()
    ref_logp = state[:, REFERENCE_LABEL] - ref_lse
    if form is None:
        return logp, ref_logp, logp[:0]
    mean = state[:, RATIO_SUM] / state[:, POLICY_SUM if form == "policy" else REFERENCE_SUM]
    divergence = mean - (lse - ref_lse)
    return logp, ref_logp, divergence.clamp(min=0.0) if form == "policy" else divergence.clamp(max=0.0)

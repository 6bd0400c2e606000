"""What backward works on: the rows of a band that need it, and the sums of the products of their gradients.

Shapes: N response tokens, D hidden width, V vocabulary; a band is some of the N, a tile some of its V columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_dist.ops.tiles import TilePlan


def wide(tensor: Tensor) -> torch.dtype:
    """The dtype that numbers of a tensor of any shape are summed in: float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class Model(NamedTuple):
    """Hidden rows and the head over them."""

    hidden: Tensor
    """[N, D], or the rows of a band."""
    weight: Tensor
    """[V, D]."""
    bias: Tensor | None
    """[V]."""

    def of_rows(self, rows: slice | Tensor) -> Model:
        """The same head over some of the rows: a slice of them, or their int64 places [n]."""
        return self._replace(hidden=self.hidden[rows])

    def products(self, rows: slice, entries: slice, out: Tensor) -> Tensor:
        """Some rows times some vocabulary entries of the head, written to `out` [rows, entries]."""
        weight = self.weight[entries].t()
        if self.bias is None:
            return torch.mm(self.hidden[rows], weight, out=out)
        return torch.addmm(self.bias[entries], self.hidden[rows], weight, out=out)


class BandWork(NamedTuple):
    """Which rows of a band have an upstream gradient; those with one of the divergence come first."""

    band: slice
    order: Tensor | None
    """[size] int64: places within the band; None where no row is left out or moved."""
    size: int
    """How many rows have one."""
    with_divergence: int
    """How many of these have one of the divergence."""

    @property
    def rows(self) -> slice | Tensor:
        """Rows of the whole batch: a slice, or [size] int64."""
        return self.band if self.order is None else self.order + self.band.start

    def of_kept(self, kept: Tensor, count: int) -> Tensor:
        """[count, w]: the first `count` of these rows of the band's kept products `kept` [band, w]."""
        return kept[:count] if self.order is None else kept[self.order[:count]]


def band_work(band: slice, grad_logp: Tensor, grad_divergence: Tensor | None) -> BandWork:
    """Sort the rows of a band by what their upstream gradients [N] need. On a GPU this waits for the two counts."""
    needed = grad_logp[band] != 0
    with_v = torch.zeros_like(needed) if grad_divergence is None else grad_divergence[band] != 0
    needed = needed | with_v
    size, with_divergence = torch.stack((needed.sum(), with_v.sum())).tolist()
    order = None
    if size < len(needed) or 0 < with_divergence < size:
        order = (needed.to(torch.int8) + with_v.to(torch.int8)).argsort(descending=True, stable=True)[:size]
    return BandWork(band, order, size, with_divergence)


class Gradients:
    """Sums of the products that gradients are made of; the weight's in float32 at least.

    With one band every weight's gradient is one product, whose own sum is float32: it is written where it belongs.
    """

    def __init__(self, model: Model, needs: list[bool], plan: TilePlan) -> None:
        self._needs = needs
        self._model = model
        self._one_band = plan.bands == 1
        self._hidden = torch.zeros_like(model.hidden) if needs[0] else model.hidden.new_empty(0)
        self._band: Tensor | None = None
        weight, bias = model.weight, model.bias
        self._weight, self._bias = weight.new_empty(0), weight.new_empty(0)
        if needs[1] and self._one_band:
            self._weight = torch.empty_like(weight)
        elif needs[1]:
            self._weight = torch.zeros_like(weight, dtype=wide(weight))
        if needs[2] and bias is not None:
            self._bias = torch.zeros_like(bias, dtype=wide(weight))

    def add(self, band: Model, grad: Tensor, entries: slice) -> None:
        """Use a tile's gradient [n, w] of the products."""
        if self._needs[0]:
            weight = self._model.weight[entries]
            if self._band is None:
                self._band = torch.zeros_like(band.hidden, dtype=wide(grad))
            _add_product(self._band, grad, weight)
        if self._needs[1] and self._one_band:
            torch.mm(grad.t(), band.hidden, out=self._weight[entries])
        elif self._needs[1]:
            _add_product(self._weight[entries], grad.t(), band.hidden)
        if self._needs[2]:
            self._bias[entries] += grad.sum(0, dtype=self._bias.dtype)

    def end_band(self, rows: slice | Tensor) -> None:
        """Put the band's gradient [n, D] of hidden rows in its place."""
        if self._band is not None:
            self._hidden[rows] = self._band.to(self._hidden.dtype)
            self._band = None

    def result(self) -> list[Tensor]:
        """Gradients of hidden [N, D], weight [V, D] and bias [V], in their dtype; empty where not needed."""
        dtype = self._model.weight.dtype
        return [self._hidden, self._weight.to(dtype), self._bias.to(dtype)]


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, summed in the dtype of `total`."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:  # a float32 sum of narrower factors: torch 2.10 and newer
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:  # CPUs have no such product: each tile's is rounded to the dtype of its factors before it is added
        total += a @ b

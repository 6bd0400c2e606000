"""Tiles in plain PyTorch: the oracle that compiled kernels are tested against.

Shapes: n rows, w vocabulary entries of a tile. Arithmetic over a tile is float32, or float64 where the logits are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_dist.ops.kernels import (
    PLAIN,
    POLICY_LABEL,
    POLICY_SUM,
    POLICY_TOP,
    RATIO_SUM,
    REFERENCE_LABEL,
    REFERENCE_SUM,
    REFERENCE_TOP,
    DivergenceForm,
    Tile,
    Upstream,
)


class EagerKernels:
    """TileKernels without anything compiled."""

    name = "eager"

    def forward(self, tile: Tile, form: DivergenceForm | None, state: Tensor) -> None:
        policy = tile.policy_map.logits(_wide(tile.policy))
        here = (tile.labels >= tile.first) & (tile.labels < tile.first + policy.shape[1])
        column = torch.where(here, tile.labels - tile.first, 0).unsqueeze(-1)
        weight, scale = _fold(policy, state[:, POLICY_TOP], state[:, POLICY_SUM])
        _take_label(policy, column, here, state[:, POLICY_LABEL])
        if tile.reference is None:
            return
        reference = tile.reference_map.logits(_wide(tile.reference))
        ref_weight, ref_scale = _fold(reference, state[:, REFERENCE_TOP], state[:, REFERENCE_SUM])
        _take_label(reference, column, here, state[:, REFERENCE_LABEL])
        if form is not None:
            if form == "reference":
                weight, scale = ref_weight, ref_scale
            # An entry of no probability counts nothing, even where the log-ratio is not finite.
            ratio = torch.where(weight > 0, weight * (policy - reference), 0.0).sum(-1, dtype=torch.float64)
            before = torch.where(scale > 0, state[:, RATIO_SUM] * scale, 0.0)
            state[:, RATIO_SUM] = before + ratio

    def backward(self, tile: Tile, form: DivergenceForm | None, state: Tensor, upstream: Upstream, out: Tensor) -> None:
        products = _wide(tile.policy)
        policy = tile.policy_map.logits(products)
        probs = _probabilities(policy, state[:, POLICY_TOP], state[:, POLICY_SUM])
        grad = probs * -upstream.logp.unsqueeze(-1)
        here = (tile.labels >= tile.first) & (tile.labels < tile.first + policy.shape[1])
        column = torch.where(here, tile.labels - tile.first, 0).unsqueeze(-1)
        grad.scatter_add_(-1, column, torch.where(here, upstream.logp, 0.0).unsqueeze(-1))
        if form is not None and upstream.divergence is not None and tile.reference is not None:
            reference = tile.reference_map.logits(_wide(tile.reference))
            slope = upstream.divergence.unsqueeze(-1)
            if form == "policy":
                mean = (state[:, RATIO_SUM] / state[:, POLICY_SUM]).to(policy.dtype).unsqueeze(-1)
                grad += torch.where((probs > 0) & (slope != 0), slope * probs * (policy - reference - mean), 0.0)
            else:
                ref_probs = _probabilities(reference, state[:, REFERENCE_TOP], state[:, REFERENCE_SUM])
                grad += slope * (ref_probs - probs)
        out.copy_(grad if tile.policy_map == PLAIN else grad * tile.policy_map.slope(products))


def _wide(products: Tensor) -> Tensor:
    return products if products.dtype == torch.float64 else products.float()


def _fold(logits: Tensor, top: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Fold a tile into `top` and `total` [n]; exp(logits - new top), and what older sums are to be multiplied with."""
    new_top = torch.maximum(top, logits.amax(-1).to(top.dtype))
    # Nothing but -inf so far: every weight is 0, and -inf - -inf must not come up.
    shift = torch.where(new_top == -torch.inf, 0.0, new_top)
    weight = (logits - shift.to(logits.dtype).unsqueeze(-1)).exp()
    scale = (top - shift).exp()
    total.copy_(total * scale + weight.sum(-1, dtype=torch.float64))
    top.copy_(new_top)
    return weight, scale


def _take_label(logits: Tensor, column: Tensor, here: Tensor, label: Tensor) -> None:
    """Keep the label's logit where the label lies in this tile."""
    label.copy_(torch.where(here, logits.gather(-1, column).squeeze(-1).to(label.dtype), label))


def _probabilities(logits: Tensor, top: Tensor, total: Tensor) -> Tensor:
    shifted = logits - top.to(logits.dtype).unsqueeze(-1)
    return shifted.exp() / total.to(logits.dtype).unsqueeze(-1)

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
    SQUARE_SUM,
    AlphaDivergence,
    Divergence,
    Tile,
    Upstream,
    log_mixed,
)


class EagerKernels:
    """TileKernels without anything compiled."""

    name = "eager"

    def forward(self, tile: Tile, divergence: Divergence | None, state: Tensor, *, squares: bool = False) -> None:
        policy = tile.policy_map.logits(_wide(tile.policy))
        here = (tile.labels >= tile.first) & (tile.labels < tile.first + policy.shape[1])
        column = torch.where(here, tile.labels - tile.first, 0).unsqueeze(-1)
        weight, scale = _fold(policy, state[:, POLICY_TOP], state[:, POLICY_SUM])
        _take_label(policy, column, here, state[:, POLICY_LABEL])
        if squares:
            state[:, SQUARE_SUM] = state[:, SQUARE_SUM] * scale**2 + weight.square().sum(-1, dtype=torch.float64)
        if tile.reference is None:
            return
        reference = tile.reference_map.logits(_wide(tile.reference))
        ref_weight, ref_scale = _fold(reference, state[:, REFERENCE_TOP], state[:, REFERENCE_SUM])
        _take_label(reference, column, here, state[:, REFERENCE_LABEL])
        if divergence is None:
            return
        if isinstance(divergence, AlphaDivergence):
            ratio = _mixed(policy, reference, state, divergence.alpha) * weight
            scale = scale**divergence.alpha * ref_scale ** (1 - divergence.alpha)
        else:
            if divergence == "reference":
                weight, scale = ref_weight, ref_scale
            ratio = weight * (policy - reference)
        # An entry of no probability counts nothing, even where the log-ratio is not finite.
        found = torch.where(weight > 0, ratio, 0.0).sum(-1, dtype=torch.float64)
        state[:, RATIO_SUM] = torch.where(scale > 0, state[:, RATIO_SUM] * scale, 0.0) + found

    def backward(
        self, tile: Tile, divergence: Divergence | None, state: Tensor, upstream: Upstream, out: Tensor
    ) -> None:
        products = _wide(tile.policy)
        policy = tile.policy_map.logits(products)
        probs = _probabilities(policy, state[:, POLICY_TOP], state[:, POLICY_SUM])
        grad = probs * -upstream.logp.unsqueeze(-1)
        here = (tile.labels >= tile.first) & (tile.labels < tile.first + policy.shape[1])
        column = torch.where(here, tile.labels - tile.first, 0).unsqueeze(-1)
        grad.scatter_add_(-1, column, torch.where(here, upstream.logp, 0.0).unsqueeze(-1))
        if divergence is not None and upstream.divergence is not None and tile.reference is not None:
            reference = tile.reference_map.logits(_wide(tile.reference))
            slope = upstream.divergence.unsqueeze(-1)
            if isinstance(divergence, AlphaDivergence):
                rest = 1 - divergence.alpha
                log_sum = log_mixed(state, divergence.alpha)
                # (r / p)^(1 - alpha), of the two sums of weights as well.
                shares = rest * (state[:, POLICY_SUM].log() - state[:, REFERENCE_SUM].log())
                ratio = _mixed(policy, reference, state, divergence.alpha) * shares.exp().to(policy.dtype).unsqueeze(-1)
                change = probs * (log_sum.exp().to(policy.dtype).unsqueeze(-1) - ratio) / rest
                grad += torch.where((probs > 0) & (slope != 0), slope * change, 0.0)
            elif divergence == "policy":
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
    shift = _base(new_top)
    weight = (logits - shift.to(logits.dtype).unsqueeze(-1)).exp()
    scale = (top - shift).exp()
    total.copy_(total * scale + weight.sum(-1, dtype=torch.float64))
    top.copy_(new_top)
    return weight, scale


def _take_label(logits: Tensor, column: Tensor, here: Tensor, label: Tensor) -> None:
    """Keep the label's logit where the label lies in this tile."""
    label.copy_(torch.where(here, logits.gather(-1, column).squeeze(-1).to(label.dtype), label))


def _mixed(policy: Tensor, reference: Tensor, state: Tensor, alpha: float) -> Tensor:
    """[n, w]: exp((1 - alpha) (y - top - (z - top))), what a weight of the policy becomes one of the mixture by."""
    tops = (_base(state[:, column]).to(policy.dtype).unsqueeze(-1) for column in (POLICY_TOP, REFERENCE_TOP))
    z, y = (logits - top for logits, top in zip((policy, reference), tops, strict=True))
    return ((1 - alpha) * (y - z)).exp()


def _base(top: Tensor) -> Tensor:
    """What logits are held against: with nothing but -inf so far, -inf - -inf must not come up."""
    return torch.where(top == -torch.inf, 0.0, top)


def _probabilities(logits: Tensor, top: Tensor, total: Tensor) -> Tensor:
    shifted = logits - top.to(logits.dtype).unsqueeze(-1)
    return shifted.exp() / total.to(logits.dtype).unsqueeze(-1)

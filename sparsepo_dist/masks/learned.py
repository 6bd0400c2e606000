"""Learned masks (SparsePO, arXiv 2410.05102, section 3): small heads over the reference's hidden states.

Shapes: L layers, N response tokens, D hidden width, W outputs of a layer's first linear (1, or HIDDEN_WIDTH).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepo_dist.masks.config import MaskConfig

HIDDEN_WIDTH = 200  # between the two linears, as in the paper
RELEASED_DEVIATION = 0.02


class LearnedMask(nn.Module):
    """m = ReLU(w_o . [m^1 .. m^L]) with m^l = ReLU(w^l . H^l + b^l); with one layer, m = m^1. w_o has no bias.

    Options: a LayerNorm of H shared by all layers; w^l and b^l as two linears with a ReLU between (none in the released
    implementation); dropout after each ReLU; the sign of the result; a floor below it, and 1 above. Every parameter
    belongs to this module itself, none to a child: ZeRO-3 gathers them all when this module runs.
    """

    def __init__(self, layers: int, width: int, config: MaskConfig) -> None:
        super().__init__()
        first = (layers,) if config.linears == 1 else (layers, HIDDEN_WIDTH)
        self.weight, self.bias = _uniform(width, *first, width), _uniform(width, *first)
        self.second_weight = self.second_bias = None
        if config.linears == 2:
            self.second_weight, self.second_bias = _uniform(HIDDEN_WIDTH, *first), _uniform(HIDDEN_WIDTH, layers)
        self.norm_weight = nn.Parameter(torch.ones(width)) if config.layer_norm else None
        self.norm_bias = nn.Parameter(torch.zeros(width)) if config.layer_norm else None
        self.out = _uniform(layers, layers) if layers > 1 else None
        self.dropout, self.binary = config.dropout or 0.0, config.binary
        self.floor, self.bounded = config.floor, config.bounded
        self.relu_between = config.init != "released"
        if config.init == "released":
            self._start_as_released()

    def forward(self, layer_hidden: Tensor) -> Tensor:
        """[N] mask, float32 or wider, of `layer_hidden` [L, N, D], which gets no gradient."""
        mask = self._activate(self.layer_scores(layer_hidden))
        mask = mask[0] if self.out is None else self._activate(self.out.to(mask.dtype) @ mask)
        if self.binary != "none":
            return _sign(mask, straight_through=self.binary == "straight_through")
        return within(mask, floor=self.floor, bounded=self.bounded)

    @torch.no_grad()
    def _start_as_released(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif not name.startswith("norm"):
                parameter.normal_(0, RELEASED_DEVIATION)

    def layer_scores(self, layer_hidden: Tensor) -> Tensor:
        """[L, N]: w^l . H^l + b^l, of which each layer's mask is the ReLU."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        layers, width = layer_hidden.shape[0], layer_hidden.shape[-1]
        weight, bias = self.weight.to(dtype).view(layers, -1, width), self.bias.to(dtype).view(layers, -1)
        if self.norm_weight is not None and self.norm_bias is not None:
            # The norm's own scale and shift are folded into the linear, so that only (H - mean) / deviation is left.
            bias = bias + weight @ self.norm_bias.to(dtype)
            weight = weight * self.norm_weight.to(dtype)
        first = _LayerProducts.apply(layer_hidden, weight, self.norm_weight is not None) + bias.unsqueeze(1)
        if self.second_weight is None or self.second_bias is None:
            return first.squeeze(-1)
        hidden = self._activate(first) if self.relu_between else first
        return (hidden @ self.second_weight.to(dtype).unsqueeze(-1)).squeeze(-1) + self.second_bias.to(dtype)[:, None]

    def _activate(self, values: Tensor) -> Tensor:
        return F.dropout(F.relu(values), self.dropout, self.training)


def within(mask: Tensor, *, floor: float, bounded: bool) -> Tensor:
    """A non-negative mask with its floor added, cut to [0, 1] if `bounded`; what is cut gets no gradient."""
    mask = mask + floor if floor else mask
    return mask.clamp(max=1) if bounded else mask


class _LayerProducts(torch.autograd.Function):
    """[L, N, W]: H^l times weight^l transposed, H^l normalised first if asked for.

    One layer at a time, in the weight's dtype, and again in backward: neither a converted nor a normalised copy of all
    layers exists. The hidden states are the frozen reference's and get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, layer_hidden: Tensor, weight: Tensor, normalise: bool) -> Tensor:
        ctx.save_for_backward(layer_hidden)
        ctx.dtype, ctx.normalise = weight.dtype, normalise
        return torch.stack([_rows(hidden, ctx) @ w.T for hidden, w in zip(layer_hidden, weight, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (layer_hidden,) = ctx.saved_tensors
        return None, torch.stack([g.T @ _rows(h, ctx) for h, g in zip(layer_hidden, grad, strict=True)]), None


def _rows(hidden: Tensor, ctx: Any) -> Tensor:
    hidden = hidden.to(ctx.dtype)
    return F.layer_norm(hidden, hidden.shape[-1:]) if ctx.normalise else hidden


def _sign(mask: Tensor, *, straight_through: bool) -> Tensor:
    """1 where the mask is positive, else 0.

    Straight-through takes the sign's derivative as 1 and leaves the ReLU's own before it: a token whose mask is 0 gets
    no gradient, so that tokens whose two masks are 0 may still be skipped without changing any gradient.
    """
    sign = torch.sign(mask)
    return sign.detach() + (mask - mask.detach()) if straight_through else sign


def decays(name: str) -> bool:
    """Whether the released implementation's weight decay is on a parameter of a head: not on biases and norms."""
    return not name.endswith("bias") and "norm" not in name


class MaskHeads(nn.Module):
    """The heads of the masks there are: of both, of one, or one for both."""

    def __init__(self, layers: int, width: int, config: MaskConfig) -> None:
        super().__init__()
        layers = layers if config.layers == "all" else 1
        self.common = config.sharing == "common"
        self.reward = self.divergence = None
        if config.on != "divergence":
            self.reward = LearnedMask(layers, width, config)
        if config.on != "reward" and not self.common:
            self.divergence = LearnedMask(layers, width, config)

    def named_heads(self) -> dict[str, LearnedMask]:
        """The heads there are, by the mask they make: `reward`, `divergence`, or `common` for both."""
        heads = {"common" if self.common else "reward": self.reward, "divergence": self.divergence}
        return {name: head for name, head in heads.items() if head is not None}

    def forward(self, layer_hidden: Tensor) -> tuple[Tensor, Tensor]:
        """m_u and m_d, [N] each, of `layer_hidden` [L, N, D]; 1 where there is no head."""
        ones = layer_hidden.new_ones(layer_hidden.shape[1], dtype=torch.float32)
        reward = ones if self.reward is None else self.reward(layer_hidden)
        if self.common:
            return reward, reward
        return reward, ones if self.divergence is None else self.divergence(layer_hidden)


def _uniform(inputs: int, *shape: int) -> nn.Parameter:
    """Initialised as nn.Linear does for so many inputs."""
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

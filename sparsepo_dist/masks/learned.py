"""Learned masks (SparsePO, section 3): small heads over the reference's hidden states. N tokens, L layers, D width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepo_dist.masks.config import MaskConfig


class LearnedMask(nn.Module):
    """m = ReLU(w_o . [m^1 .. m^L]) with m^l = ReLU(w^l . H^l + b^l); with one layer, m = m^1. w_o has no bias."""

    def __init__(self, layers: int, width: int, config: MaskConfig) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(layers, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(layers).uniform_(-bound, bound))
        self.norm = nn.LayerNorm(width) if config.layer_norm else None
        bound = 1 / math.sqrt(layers)
        self.out = nn.Parameter(torch.empty(layers).uniform_(-bound, bound)) if layers > 1 else None
        self.dropout = config.dropout

    def forward(self, layer_hidden: Tensor) -> Tensor:
        """[N] float32 mask of `layer_hidden` [L, N, D]."""
        hidden = layer_hidden.to(self.weight.dtype)
        if self.norm is not None:
            hidden = self.norm(hidden)
        per_layer = torch.matmul(hidden, self.weight.unsqueeze(-1)).squeeze(-1) + self.bias.unsqueeze(-1)
        mask = self._activate(per_layer.float())
        if self.out is None:
            return mask[0]
        return self._activate(self.out.float() @ mask)

    def _activate(self, values: Tensor) -> Tensor:
        return F.dropout(F.relu(values), self.dropout, self.training)


class MaskHeads(nn.Module):
    """The reward mask's head and, unless both masks are common, the divergence mask's."""

    def __init__(self, layers: int, width: int, config: MaskConfig) -> None:
        super().__init__()
        layers = layers if config.layers == "all" else 1
        self.reward = LearnedMask(layers, width, config)
        self.divergence = LearnedMask(layers, width, config) if config.sharing == "independent" else None

    def forward(self, layer_hidden: Tensor) -> tuple[Tensor, Tensor]:
        """m_u and m_d, [N] each, of `layer_hidden` [L, N, D]."""
        reward = self.reward(layer_hidden)
        return reward, reward if self.divergence is None else self.divergence(layer_hidden)

"""DPO whose tokens weigh by where they stand in their responses: LD-DPO, SamPO and D2PO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.masks.positions import decay, sampled, tail
from sparsepo_dist.objectives.base import ObjectiveOutput, Requirements, Sums
from sparsepo_dist.objectives.margins import log_ratios, logistic_loss
from sparsepo_dist.objectives.metrics import preference_metrics


@dataclass(frozen=True)
class WeightedDPO(ABC):
    """-log sigmoid(beta (S_c[w rho] - S_r[w rho]))."""

    beta: float

    @abstractmethod
    def weights(self, responses: Responses, dtype: torch.dtype) -> Tensor:
        """[N]: w of each token."""

    @property
    def requirements(self) -> Requirements:
        return Requirements(reference=True, divergence=None, masks=None)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        sums, weights = Sums(responses), self.weights(responses, stats.policy_logp.dtype)
        losses = logistic_loss(self.beta * sums(weights * log_ratios(stats)).margin)
        return ObjectiveOutput(losses, preference_metrics(stats, None, sums, self.beta, weights))


@dataclass(frozen=True)
class LDDPO(WeightedDPO):
    """w = alpha beyond the length of the pair's shorter response, else 1 (Liu et al., 2024, arXiv 2409.06411)."""

    alpha: float

    def weights(self, responses: Responses, dtype: torch.dtype) -> Tensor:
        return tail(responses, self.alpha, dtype)


@dataclass(frozen=True)
class SamPO(WeightedDPO):
    """w = 1 for equally many tokens of both responses, drawn by `seed` (Lu et al., 2024, arXiv 2406.10957)."""

    seed: int

    def weights(self, responses: Responses, dtype: torch.dtype) -> Tensor:
        return sampled(responses, self.seed, dtype)


@dataclass(frozen=True)
class D2PO(WeightedDPO):
    """w = gamma^t, t = 0 for a response's first token (Shao et al., 2025, arXiv 2502.14340)."""

    gamma: float

    def weights(self, responses: Responses, dtype: torch.dtype) -> Tensor:
        return decay(responses, self.gamma, dtype)

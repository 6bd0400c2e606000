"""What preference losses are made of: the log-ratio of a token, and the logistic loss of a margin."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsepo_dist.contracts import TokenMasks, TokenStats


def log_ratios(stats: TokenStats) -> Tensor:
    """[N]: rho = log pi - log pi_ref of each response token, in nats."""
    assert stats.reference_logp is not None
    return stats.policy_logp - stats.reference_logp


def weighed(stats: TokenStats, masks: TokenMasks | None) -> TokenStats:
    """Statistics of which log pi and log pi_ref weigh m_u, the divergence m_d; without masks as they are."""
    if masks is None:
        return stats
    return dataclasses.replace(
        stats,
        policy_logp=masks.reward * stats.policy_logp,
        reference_logp=None if stats.reference_logp is None else masks.reward * stats.reference_logp,
        divergence=None if stats.divergence is None else masks.divergence * stats.divergence,
    )


def deformed(x: Tensor, alpha: float) -> Tensor:
    """(1 - e^(-alpha x)) / alpha, elementwise, which is x at alpha 0; e is taken to no more than 80, as TRL does."""
    return x if alpha == 0 else -torch.expm1((-alpha * x).clamp(max=80)) / alpha


def logistic_loss(margin: Tensor) -> Tensor:
    """[P]: -log sigmoid(margin) of margins [P]: 0 far above 0, -margin far below."""
    return -F.logsigmoid(margin)

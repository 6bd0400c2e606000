"""Per-chunk statistics and their gradient in plain PyTorch: the oracle that compiled kernels are tested against.

Shapes: n rows of one chunk, V vocabulary. Statistics are float32, or float64 where the logits are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_dist.ops.kernels import ChunkStats, DivergenceForm


class EagerKernels:
    """ChunkKernels without anything compiled."""

    name = "eager"

    def forward(
        self, policy: Tensor, reference: Tensor | None, labels: Tensor, form: DivergenceForm | None
    ) -> ChunkStats:
        policy, lse = _wide(policy)
        logp = _picked(policy, labels) - lse
        if reference is None:
            return ChunkStats(logp, logp[:0], logp[:0], lse, logp[:0])
        reference, ref_lse = _wide(reference)
        divergence = logp[:0]
        if form is not None:
            log_p, log_r = policy - lse.unsqueeze(-1), reference - ref_lse.unsqueeze(-1)
            weight = (log_p if form == "policy" else log_r).exp()
            # A vocabulary entry of no probability counts nothing, even where the log-ratio is not finite.
            divergence = torch.where(weight > 0, weight * (log_p - log_r), 0.0).sum(-1)
        return ChunkStats(logp, _picked(reference, labels) - ref_lse, divergence, lse, ref_lse)

    def backward(
        self,
        policy: Tensor,
        reference: Tensor | None,
        labels: Tensor,
        stats: ChunkStats,
        grad_logp: Tensor,
        grad_divergence: Tensor | None,
        form: DivergenceForm | None,
        out: Tensor,
    ) -> None:
        log_p = policy.to(stats.policy_lse.dtype) - stats.policy_lse.unsqueeze(-1)
        probs = log_p.exp()
        grad = probs * -grad_logp.unsqueeze(-1)
        if form is not None and grad_divergence is not None and reference is not None:
            log_r = reference.to(log_p.dtype) - stats.reference_lse.unsqueeze(-1)
            if form == "policy":
                centred = torch.where(probs > 0, log_p - log_r - stats.divergence.unsqueeze(-1), 0.0)
                grad += probs * centred * grad_divergence.unsqueeze(-1)
            else:
                grad += (log_r.exp() - probs) * grad_divergence.unsqueeze(-1)
        grad.scatter_add_(-1, labels.unsqueeze(-1), grad_logp.unsqueeze(-1))
        out.copy_(grad)


def _wide(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits in float32 at least, and their log-sum-exp [n]."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide, wide.logsumexp(-1)


def _picked(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)

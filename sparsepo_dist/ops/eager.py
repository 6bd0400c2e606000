"""Per-chunk statistics and their gradient in plain PyTorch: the oracle that compiled backends are tested against.

Shapes: n rows of one chunk, V vocabulary. Statistics are float32, or float64 where the logits are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

DivergenceForm = Literal["policy", "reference"]
"""The distribution that the log-ratio is averaged under: `policy` gives KL(pi || pi_ref), the paper's Eq. 6-8;
`reference` gives -KL(pi_ref || pi), the released implementation."""


def chunk_log_probs(logits: Tensor) -> Tensor:
    """Log-probabilities [n, V] of logits [n, V], in float32 at least."""
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def pick_labels(log_probs: Tensor, labels: Tensor) -> Tensor:
    """[n]: the log-probability of each row's label."""
    return log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def expected_log_ratio(policy: Tensor, reference: Tensor, form: DivergenceForm) -> Tensor:
    """[n]: v = E_q[log pi - log pi_ref] of log-probabilities [n, V]; q is pi or pi_ref (FACTS, Notation).

    Vocabulary entries of zero probability under q contribute nothing, even where the log-ratio is not finite.
    """
    weight = (policy if form == "policy" else reference).exp()
    return torch.where(weight > 0, weight * (policy - reference), 0.0).sum(-1)


def chunk_grad_logits(
    policy: Tensor,
    reference: Tensor | None,
    divergence: Tensor | None,
    labels: Tensor,
    grad_logp: Tensor,
    grad_divergence: Tensor | None,
    form: DivergenceForm,
) -> Tensor:
    """Gradient [n, V] of the policy's logits, from log-probabilities and the upstream gradients [n].

    d logp / dz = onehot - p;  d v / dz = p (log-ratio - v) under the policy, p_ref - p under the reference.
    """
    probs = policy.exp()
    if grad_divergence is not None and reference is not None and divergence is not None:
        if form == "policy":
            centred = torch.where(probs > 0, policy - reference - divergence.unsqueeze(-1), 0.0)
            grad = probs * (grad_divergence.unsqueeze(-1) * centred - grad_logp.unsqueeze(-1))
        else:
            grad = grad_divergence.unsqueeze(-1) * reference.exp() - (grad_divergence + grad_logp).unsqueeze(-1) * probs
    else:
        grad = probs * -grad_logp.unsqueeze(-1)
    return grad.scatter_add_(-1, labels.unsqueeze(-1), grad_logp.unsqueeze(-1))

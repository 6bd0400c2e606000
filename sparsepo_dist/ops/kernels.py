"""What a backend does to one chunk of logits. n rows of the chunk, V vocabulary."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from torch import Tensor

DivergenceForm = Literal["policy", "reference"]
"""The distribution that the log-ratio is averaged under: `policy` gives KL(pi || pi_ref), the paper's Eq. 6-8;
`reference` gives -KL(pi_ref || pi), the released implementation."""


class ChunkStats(NamedTuple):
    """Per row, in nats, [n]; the reference's are empty without one, the divergence without a form."""

    policy_logp: Tensor
    reference_logp: Tensor
    divergence: Tensor
    policy_lse: Tensor
    """Log-sum-exp of the logits, which backward needs."""
    reference_lse: Tensor


class ChunkKernels(Protocol):
    """Statistics of a chunk and the gradient of its logits."""

    name: str

    def forward(
        self, policy: Tensor, reference: Tensor | None, labels: Tensor, form: DivergenceForm | None
    ) -> ChunkStats:
        """Statistics of contiguous logits [n, V] and labels [n]."""
        ...

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
        """Write the gradient of the policy's logits into `out` [n, V], which may be `policy` itself.

        d logp / dz = onehot - p;  d v / dz = p (log-ratio - v) under the policy, p_ref - p under the reference.
        """
        ...

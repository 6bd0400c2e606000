"""Per-token log pi, log pi_ref and divergence from hidden rows, over chunks of the LM head.

The (tokens x vocabulary) matrix never exists: rows are taken in chunks, and backward computes a chunk again.
Shapes: N response tokens, D policy width, D_ref reference width, V vocabulary, n rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsepo_dist.contracts import TokenStats
from sparsepo_dist.ops.eager import (
    DivergenceForm,
    chunk_grad_logits,
    chunk_log_probs,
    expected_log_ratio,
    pick_labels,
)

DEFAULT_CHUNK_BYTES = 64 * 2**20


class Head(NamedTuple):
    """A language-model head: `weight` [V, D] and, for GPT-J, `bias` [V]."""

    weight: Tensor
    bias: Tensor | None = None


def token_stats(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    reference_hidden: Tensor | None = None,
    reference_head: Head | None = None,
    *,
    divergence: DivergenceForm | None = None,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
) -> TokenStats:
    """Statistics of N response tokens, differentiable in `hidden` and in `head`.

    Args:
        hidden: [N, D] the policy's hidden rows that predict the response tokens.
        head: the policy's head. A frozen head costs no gradient product.
        labels: [N] int64, in 0..V-1.
        reference_hidden: [N, D_ref], with `reference_head`; without them no reference statistics are returned.
        reference_head: the reference's head over the same vocabulary. It gets no gradient.
        divergence: the form of the expected log-ratio; None leaves it out (DPO needs none).
        chunk_bytes: bytes that one chunk's logits, of both models, may take.

    Returns:
        float32 statistics in nats (float64 for float64 inputs).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a label outside the vocabulary.
    """
    _check(hidden, head, labels, reference_hidden, reference_head, divergence)
    ref_weight, ref_bias = reference_head if reference_head is not None else (None, None)
    logp, ref_logp, v = _TokenStats.apply(
        hidden, head.weight, head.bias, labels, reference_hidden, ref_weight, ref_bias, divergence, chunk_bytes
    )
    return TokenStats(logp, ref_logp if reference_hidden is not None else None, v if divergence is not None else None)


class _TokenStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        ref_hidden: Tensor | None,
        ref_weight: Tensor | None,
        ref_bias: Tensor | None,
        form: DivergenceForm | None,
        chunk_bytes: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logp, ref_logp, v = (hidden.new_zeros(len(labels), dtype=dtype) for _ in range(3))
        for rows in _chunks(len(labels), weight, chunk_bytes):
            policy = chunk_log_probs(F.linear(hidden[rows], weight, bias))
            logp[rows] = pick_labels(policy, labels[rows])
            if ref_hidden is not None and ref_weight is not None:
                reference = chunk_log_probs(F.linear(ref_hidden[rows], ref_weight, ref_bias))
                ref_logp[rows] = pick_labels(reference, labels[rows])
                if form is not None:
                    v[rows] = expected_log_ratio(policy, reference, form)
        # ZeRO-3 swaps parameters' storage between forward and backward: saved leaves follow the swap.
        ctx.save_for_backward(hidden, weight, bias, labels, ref_hidden, ref_weight, ref_bias, v)
        ctx.form, ctx.chunk_bytes = form, chunk_bytes
        ctx.mark_non_differentiable(ref_logp)
        return logp, ref_logp, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logp: Tensor, _: Tensor, grad_v: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, ref_hidden, ref_weight, ref_bias, v = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=v.dtype) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=v.dtype) if need_bias else None
        for rows in _chunks(len(labels), weight, ctx.chunk_bytes):
            policy = chunk_log_probs(F.linear(hidden[rows], weight, bias))
            reference = None
            if ctx.form is not None:
                reference = chunk_log_probs(F.linear(ref_hidden[rows], ref_weight, ref_bias))
            grad = chunk_grad_logits(
                policy, reference, v[rows], labels[rows], grad_logp[rows],
                grad_v[rows] if ctx.form is not None else None, ctx.form or "policy",
            )  # fmt: skip
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad @ weight
            if grad_weight is not None:
                _add_product(grad_weight, grad, hidden[rows])
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            *(None,) * 6,
        )


def _add_product(total: Tensor, grad: Tensor, hidden: Tensor) -> None:
    """total [V, D] += grad.T @ hidden, summed in the wide dtype of `total`."""
    if total.dtype == hidden.dtype:
        total.addmm_(grad.t(), hidden)
    else:
        total += grad.t() @ hidden


def _chunks(rows: int, weight: Tensor, chunk_bytes: int) -> Iterator[slice]:
    size = max(1, chunk_bytes // (2 * weight.shape[0] * weight.element_size()))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _check(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    ref_hidden: Tensor | None,
    ref_head: Head | None,
    divergence: DivergenceForm | None,
) -> None:
    _check_rows("hidden", hidden, head, labels)
    if (ref_hidden is None) != (ref_head is None):
        raise ValueError("token_stats: reference_hidden and reference_head go together; one of them is None")
    if divergence is not None and ref_hidden is None:
        raise ValueError(f"token_stats: divergence {divergence!r} needs reference_hidden and reference_head")
    if divergence not in (None, "policy", "reference"):
        raise ValueError(f"token_stats: divergence is 'policy', 'reference' or None, not {divergence!r}")
    if ref_hidden is not None and ref_head is not None:
        _check_rows("reference_hidden", ref_hidden, ref_head, labels)
        if ref_head.weight.shape[0] != head.weight.shape[0]:
            raise ValueError(
                f"token_stats: the policy's vocabulary is {head.weight.shape[0]}, "
                f"the reference's {ref_head.weight.shape[0]}"
            )
    if labels.numel() and not torch.compiler.is_compiling():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= head.weight.shape[0]:
            raise ValueError(f"token_stats: labels span {low}..{high}, the vocabulary 0..{head.weight.shape[0] - 1}")


def _check_rows(name: str, hidden: Tensor, head: Head, labels: Tensor) -> None:
    if hidden.dim() != 2 or labels.shape != hidden.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"token_stats: {name} must be [N, D] and labels [N] int64, "
            f"got {tuple(hidden.shape)} and {tuple(labels.shape)} {labels.dtype}"
        )
    if head.weight.dim() != 2 or head.weight.shape[1] != hidden.shape[1]:
        raise ValueError(f"token_stats: {name} {tuple(hidden.shape)} and head {tuple(head.weight.shape)} do not fit")
    if head.bias is not None and head.bias.shape != head.weight.shape[:1]:
        raise ValueError(f"token_stats: bias {tuple(head.bias.shape)}, expected ({head.weight.shape[0]},)")
    if not hidden.dtype == head.weight.dtype or not hidden.is_floating_point():
        raise ValueError(f"token_stats: {name} is {hidden.dtype}, its head {head.weight.dtype}")
    if not hidden.device == head.weight.device == labels.device:
        raise ValueError(
            f"token_stats: {name}, head and labels are on {hidden.device}, {head.weight.device}, {labels.device}"
        )

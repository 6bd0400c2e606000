"""The loop over chunks of the LM head, as operators that torch.compile, opcheck and autograd know.

Shapes: N response tokens, D policy width, D_ref reference width, V vocabulary, K rows whose logits are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sparsepo_dist.ops.backend import choose_backend
from sparsepo_dist.ops.kernels import ChunkStats, DivergenceForm

FORMS: tuple[DivergenceForm | None, ...] = (None, "policy", "reference")


@torch.library.custom_op("sparsepo::token_stats", mutates_args=())
def token_stats_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    ref_hidden: Tensor | None,
    ref_weight: Tensor | None,
    ref_bias: Tensor | None,
    form: int,
    backend: str,
    chunk_rows: int,
    keep_rows: int,
) -> list[Tensor]:
    """policy_logp, reference_logp, divergence, both log-sum-exps [N], and both kept logits [K, V].

    What an input leaves undefined is empty: the reference's parts without a reference, the divergence without a form.
    """
    kernels = choose_backend(backend, hidden.device.type, hidden.dtype).kernels
    rows, vocabulary = len(labels), len(weight)
    stats = _empty_stats(hidden, rows, ref_hidden is not None, form)
    kept = hidden.new_empty(keep_rows, vocabulary)
    ref_kept = hidden.new_empty(keep_rows if form else 0, vocabulary)
    scratch = _scratch(hidden, vocabulary, chunk_rows, rows - keep_rows)
    ref_scratch = _scratch(hidden, vocabulary, chunk_rows, (rows - len(ref_kept)) if ref_hidden is not None else 0)
    for part in _chunks(rows, chunk_rows, keep_rows):
        is_kept = part.stop <= keep_rows
        size = part.stop - part.start
        policy = _logits(hidden[part], weight, bias, kept[part] if is_kept else scratch[:size])
        reference = None
        if ref_hidden is not None and ref_weight is not None:
            target = ref_kept[part] if is_kept and form else ref_scratch[:size]
            reference = _logits(ref_hidden[part], ref_weight, ref_bias, target)
        for whole, chunk in zip(stats, kernels.forward(policy, reference, labels[part], FORMS[form]), strict=True):
            if len(whole):
                whole[part] = chunk
    return [*stats, kept, ref_kept]


@token_stats_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    ref_hidden: Tensor | None,
    ref_weight: Tensor | None,
    ref_bias: Tensor | None,
    form: int,
    backend: str,
    chunk_rows: int,
    keep_rows: int,
) -> list[Tensor]:
    kept = hidden.new_empty(keep_rows, weight.shape[0])
    ref_kept = hidden.new_empty(keep_rows if form else 0, weight.shape[0])
    return [*_empty_stats(hidden, labels.shape[0], ref_hidden is not None, form), kept, ref_kept]


@torch.library.custom_op("sparsepo::token_stats_backward", mutates_args=())
def token_stats_backward_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    ref_hidden: Tensor | None,
    ref_weight: Tensor | None,
    ref_bias: Tensor | None,
    stats: list[Tensor],
    grad_logp: Tensor,
    grad_divergence: Tensor | None,
    form: int,
    backend: str,
    chunk_rows: int,
    keep_rows: int,
    needs: list[bool],
) -> list[Tensor]:
    """Gradients of hidden, weight and bias; empty where `needs` has them false. Weight's is summed in float32."""
    kernels = choose_backend(backend, hidden.device.type, hidden.dtype).kernels
    rows, vocabulary = len(labels), len(weight)
    kept, ref_kept = stats[5:]
    form = form if grad_divergence is not None else 0
    wide = stats[0].dtype
    grad_hidden = torch.empty_like(hidden) if needs[0] else hidden.new_empty(0)
    grad_weight = torch.zeros_like(weight, dtype=wide) if needs[1] else weight.new_empty(0)
    grad_bias = torch.zeros_like(bias, dtype=wide) if needs[2] and bias is not None else weight.new_empty(0)
    scratch = _scratch(hidden, vocabulary, chunk_rows, rows)
    ref_scratch = _scratch(hidden, vocabulary, chunk_rows, (rows - keep_rows) if form else 0)
    for part in _chunks(rows, chunk_rows, keep_rows):
        is_kept = part.stop <= keep_rows
        grad = scratch[: part.stop - part.start]
        policy = kept[part] if is_kept else _logits(hidden[part], weight, bias, grad)
        reference = None
        if form and ref_hidden is not None and ref_weight is not None:
            reference = (
                ref_kept[part] if is_kept else _logits(ref_hidden[part], ref_weight, ref_bias, ref_scratch[: len(grad)])
            )
        kernels.backward(
            policy, reference, labels[part], ChunkStats(*(s[part] for s in stats[:5])), grad_logp[part],
            None if grad_divergence is None else grad_divergence[part], FORMS[form], grad,
        )  # fmt: skip
        if needs[0]:
            torch.mm(grad, weight, out=grad_hidden[part])
        if needs[1]:
            _add_product(grad_weight, grad, hidden[part])
        if needs[2]:
            grad_bias += grad.sum(0, dtype=wide)
    return [grad_hidden, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype)]


@token_stats_backward_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    ref_hidden: Tensor | None,
    ref_weight: Tensor | None,
    ref_bias: Tensor | None,
    stats: list[Tensor],
    grad_logp: Tensor,
    grad_divergence: Tensor | None,
    form: int,
    backend: str,
    chunk_rows: int,
    keep_rows: int,
    needs: list[bool],
) -> list[Tensor]:
    whole = (hidden, weight, bias)
    return [
        torch.empty_like(t) if need and t is not None else weight.new_empty(0)
        for t, need in zip(whole, needs, strict=True)
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *tensors, form, backend, chunk_rows, keep_rows = inputs
    # ZeRO-3 swaps parameters' storage between forward and backward: saved leaves follow the swap.
    ctx.save_for_backward(*tensors, *output)
    ctx.options = (form, backend, chunk_rows, keep_rows)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    tensors, stats = ctx.saved_tensors[:7], list(ctx.saved_tensors[7:])
    hidden = tensors[0]
    needs = [bool(need) for need in ctx.needs_input_grad[:3]]
    grad_logp = grads[0] if grads[0] is not None else torch.zeros_like(stats[0])
    form, backend, chunk_rows, keep_rows = ctx.options
    found = token_stats_backward_op(
        *tensors, stats, grad_logp, grads[2] if form else None, form, backend, chunk_rows, keep_rows, needs
    )
    assert hidden is not None
    return (*(grad if need else None for grad, need in zip(found, needs, strict=True)), *(None,) * 8)


token_stats_op.register_autograd(_backward, setup_context=_setup_context)


def _empty_stats(hidden: Tensor, rows: int, has_reference: bool, form: int) -> ChunkStats:
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    ref_rows = rows if has_reference else 0
    sizes = (rows, ref_rows, ref_rows if form else 0, rows, ref_rows)
    return ChunkStats(*(hidden.new_empty(size, dtype=dtype) for size in sizes))


def _scratch(hidden: Tensor, vocabulary: int, chunk_rows: int, rows: int) -> Tensor:
    """Room for one chunk's logits, used again by every chunk: fresh memory costs page faults."""
    return hidden.new_empty(min(chunk_rows, rows), vocabulary)


def _chunks(rows: int, chunk_rows: int, keep_rows: int) -> Iterator[slice]:
    """Chunks that lie wholly inside or wholly outside the kept rows."""
    for first, last in ((0, keep_rows), (keep_rows, rows)):
        for start in range(first, last, chunk_rows):
            yield slice(start, min(start + chunk_rows, last))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    if bias is None:
        return torch.mm(hidden, weight.t(), out=out)
    return torch.addmm(bias, hidden, weight.t(), out=out)


def _add_product(total: Tensor, grad: Tensor, hidden: Tensor) -> None:
    """total [V, D] += grad.T @ hidden, summed in the wide dtype of `total`."""
    if total.dtype == hidden.dtype:
        total.addmm_(grad.t(), hidden)
    else:
        total += grad.t() @ hidden

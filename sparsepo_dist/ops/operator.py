"""The loop over tiles of the LM head, as operators that torch.compile, opcheck and autograd know.

Shapes: N response tokens, D policy width, D_ref reference width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsepo_dist.ops.backend import choose_backend
from sparsepo_dist.ops.bands import Gradients, Model, band_work, wide
from sparsepo_dist.ops.kernels import COLUMNS, LogitMap, Tile, Upstream, divergence_of, finish, new_state
from sparsepo_dist.ops.tiles import TilePlan, plan_tiles, view


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
    alpha: float,
    maps: list[float],
    backend: str,
    tile_bytes: int,
    keep_bytes: int,
    squares: bool,
) -> list[Tensor]:
    """policy_logp, reference_logp, divergence, log of the sum of squared probabilities, [N] each in nats; the rows'
    state [N, 8]; kept products of both models, flat.

    In come hidden rows [N, D], a head's weight [V, D] and bias [V], labels [N] int64, the same of the reference with
    D_ref, a divergence as `form_of` codes it, scale and cap of the policy's LogitMap and the reference's, and whether
    the last statistic is wanted. What an input leaves undefined is empty: the reference's parts without a reference,
    the divergence without a form. Only the first and the third have a gradient.

    Raises:
        ValueError: a label outside the vocabulary.
        UserError: `backend`, a compiled one, cannot be used here.
    """
    kernels = choose_backend(backend, hidden.device.type, hidden.dtype).kernels
    check_labels(labels, len(weight))
    policy = Model(hidden, weight, bias)
    reference = None if ref_hidden is None or ref_weight is None else Model(ref_hidden, ref_weight, ref_bias)
    policy_map, ref_map = LogitMap(*maps[:2]), LogitMap(*maps[2:])
    plan = _plan(labels, weight, ref_hidden, form, tile_bytes, keep_bytes)
    kept, ref_kept = _kept(hidden, plan, form)
    state = new_state(len(labels), hidden)
    divergence = divergence_of(form, alpha)
    scratch, ref_scratch = _scratch(hidden, plan), _scratch(hidden, plan, reference is not None)
    for band in range(plan.bands):
        rows = plan.band(band)
        for entries, place in plan.tiles(band):
            products = policy.products(rows, entries, _target(plan, rows, entries, place, kept, scratch))
            ref_products = None
            if reference is not None:
                # Without a divergence backward does not ask for the reference.
                target = _target(plan, rows, entries, place if form else None, ref_kept, ref_scratch)
                ref_products = reference.products(rows, entries, target)
            tile = Tile(products, ref_products, labels[rows], entries.start, policy_map, ref_map)
            kernels.forward(tile, divergence, state[rows], squares=squares)
    stats = finish(state, reference is not None, divergence, squares=squares)
    return [*(s.to(wide(hidden), copy=True) for s in stats), state, kept, ref_kept]


@token_stats_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *rest: Any) -> list[Tensor]:
    ref_hidden, _, _, form, _, _, _, tile_bytes, keep_bytes, squares = rest
    rows = labels.shape[0]
    ref_rows = 0 if ref_hidden is None else rows
    lengths = (rows, ref_rows, ref_rows if form else 0, rows if squares else 0)
    stats = (hidden.new_empty(length, dtype=wide(hidden)) for length in lengths)
    plan = _plan(labels, weight, ref_hidden, form, tile_bytes, keep_bytes)
    return [*stats, hidden.new_empty(rows, COLUMNS, dtype=torch.float64), *_kept(hidden, plan, form)]


@torch.library.custom_op("sparsepo::token_stats_backward", mutates_args=())
def token_stats_backward_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    ref_hidden: Tensor | None,
    ref_weight: Tensor | None,
    ref_bias: Tensor | None,
    state: Tensor,
    kept: Tensor,
    ref_kept: Tensor,
    grad_logp: Tensor,
    grad_divergence: Tensor | None,
    form: int,
    alpha: float,
    maps: list[float],
    backend: str,
    tile_bytes: int,
    keep_bytes: int,
    needs: list[bool],
) -> list[Tensor]:
    """Gradients of hidden [N, D], weight [V, D] and bias [V]; empty where `needs` has them false.

    The upstream gradients `grad_logp` and `grad_divergence` are [N], `state` to `ref_kept` what forward returned. Rows
    whose upstream gradients are 0 cost no product, rows without one of the divergence none of the reference's.
    """
    kernels = choose_backend(backend, hidden.device.type, hidden.dtype).kernels
    policy = Model(hidden, weight, bias)
    reference = None if ref_hidden is None or ref_weight is None else Model(ref_hidden, ref_weight, ref_bias)
    policy_map, ref_map = LogitMap(*maps[:2]), LogitMap(*maps[2:])
    plan = _plan(labels, weight, ref_hidden, form, tile_bytes, keep_bytes)
    grads = Gradients(policy, needs, plan)
    divergence = divergence_of(form, alpha)
    scratch, ref_scratch = _scratch(hidden, plan), _scratch(hidden, plan, grad_divergence is not None)
    for band in range(plan.bands):
        work = band_work(plan.band(band), grad_logp, grad_divergence)
        band_size, size, split = work.band.stop - work.band.start, work.size, work.with_divergence
        rows = work.rows
        band_policy, band_labels, band_state = policy.of_rows(rows), labels[rows], state[rows]
        band_logp = grad_logp[rows]
        band_reference = band_v = None
        if split and reference is not None and grad_divergence is not None:
            band_reference, band_v = reference.of_rows(rows), grad_divergence[rows][:split]
        upstream, without_divergence = Upstream(band_logp[:split], band_v), Upstream(band_logp[split:], None)
        for entries, place in plan.tiles(band):
            grad = view(scratch, 0, plan, size, entries)
            if place is None:
                products = band_policy.products(slice(size), entries, grad)
            else:
                products = work.of_kept(view(kept, place, plan, band_size, entries), size)
            if band_reference is not None:
                if place is None:
                    target = view(ref_scratch, 0, plan, split, entries)
                    ref_products = band_reference.products(slice(split), entries, target)
                else:
                    ref_products = work.of_kept(view(ref_kept, place, plan, band_size, entries), split)
                tile = Tile(products[:split], ref_products, band_labels[:split], entries.start, policy_map, ref_map)
                kernels.backward(tile, divergence, band_state[:split], upstream, grad[:split])
            if split < size:
                tile = Tile(products[split:], None, band_labels[split:], entries.start, policy_map, ref_map)
                kernels.backward(tile, None, band_state[split:], without_divergence, grad[split:])
            grads.add(band_policy, grad, entries)
        grads.end_band(rows)
    return grads.result()


@token_stats_backward_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> list[Tensor]:
    wanted = zip((hidden, weight, bias), rest[-1], strict=True)
    return [weight.new_empty(0) if t is None or not need else torch.empty_like(t) for t, need in wanted]


_TENSORS = 7  # come first among the inputs
_STATISTICS = 4  # come first among the outputs


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, ctx.options = inputs[:_TENSORS], inputs[_TENSORS:]
    # ZeRO-3 swaps parameters' storage between forward and backward: saved leaves follow the swap.
    ctx.save_for_backward(*tensors, *output[_STATISTICS:])
    ctx.mark_non_differentiable(output[1], *output[3:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    form, *options, _ = ctx.options
    grad_logp, grad_divergence = grads[0], grads[2] if form else None
    inputs = _TENSORS + len(ctx.options)
    if grad_logp is None and grad_divergence is None:
        return (None,) * inputs
    if grad_logp is None:
        grad_logp = torch.zeros_like(grad_divergence)  # type: ignore[arg-type]
    needs = [bool(need) for need in ctx.needs_input_grad[:3]]
    found = token_stats_backward_op(
        *ctx.saved_tensors, grad_logp.contiguous(), None if grad_divergence is None else grad_divergence.contiguous(),
        form, *options, needs,
    )  # fmt: skip
    return (*(grad if need else None for grad, need in zip(found, needs, strict=True)), *(None,) * (inputs - 3))


token_stats_op.register_autograd(_backward, setup_context=_setup_context)


def check_labels(labels: Tensor, vocabulary: int) -> None:
    """Refuse labels [N] outside the vocabulary; within the operator, so that compiled graphs check them too.

    Raises:
        ValueError: there are some.
    """
    if labels.numel():
        low, high = torch.stack(labels.aminmax()).tolist()
        if low < 0 or high >= vocabulary:
            raise ValueError(f"token_stats: labels span {low}..{high}, the vocabulary 0..{vocabulary - 1}")


def _plan(
    labels: Tensor, weight: Tensor, ref_hidden: Tensor | None, form: int, tile_bytes: int, keep_bytes: int
) -> TilePlan:
    return plan_tiles(
        labels.shape[0], weight.shape[0], models=1 if ref_hidden is None else 2, kept_models=2 if form else 1,
        element_size=weight.element_size(), tile_bytes=tile_bytes, keep_bytes=keep_bytes,
    )  # fmt: skip


def _kept(hidden: Tensor, plan: TilePlan, form: int) -> tuple[Tensor, Tensor]:
    size = plan.kept * plan.tile_size
    return hidden.new_empty(size), hidden.new_empty(size if form else 0)


def _target(plan: TilePlan, rows: slice, entries: slice, place: int | None, kept: Tensor, scratch: Tensor) -> Tensor:
    """Where a tile's logits go: among the kept ones, or where the next tile overwrites them."""
    buffer, place = (scratch, 0) if place is None else (kept, place)
    return view(buffer, place, plan, rows.stop - rows.start, entries)


def _scratch(hidden: Tensor, plan: TilePlan, needed: bool = True) -> Tensor:
    """Room for one tile, used again by every tile: fresh memory costs page faults."""
    return hidden.new_empty(plan.tile_size if needed else 0)

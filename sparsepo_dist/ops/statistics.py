"""Per-token log pi, log pi_ref and divergence from hidden rows, over tiles of the LM head.

The (tokens x vocabulary) matrix never exists: it is cut into tiles, and backward computes a tile again unless the
memory budget kept its logits. Shapes: N response tokens, D policy width, D_ref reference width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_dist.contracts import TokenStats
from sparsepo_dist.ops.config import OpsConfig
from sparsepo_dist.ops.kernels import PLAIN, AlphaDivergence, Divergence, LogitMap, form_of
from sparsepo_dist.ops.operator import check_labels, token_stats_op

_DEFAULTS = OpsConfig()


class Head(NamedTuple):
    """A language-model head: `weight` [V, D], for GPT-J `bias` [V], and what the model does to their products."""

    weight: Tensor
    bias: Tensor | None = None
    map: LogitMap = PLAIN


def token_stats(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    reference_hidden: Tensor | None = None,
    reference_head: Head | None = None,
    *,
    divergence: Divergence | None = None,
    squares: bool = False,
    active: Tensor | None = None,
    config: OpsConfig = _DEFAULTS,
) -> TokenStats:
    """Statistics of N response tokens, differentiable in `hidden` and in `head`.

    Args:
        hidden: [N, D] the policy's hidden rows that predict the response tokens.
        head: the policy's head. A frozen head costs no gradient product.
        labels: [N] int64, in 0..V-1.
        reference_hidden: [N, D_ref] of hidden's dtype, with `reference_head`; without them no reference statistics are
            returned. Neither of them gets a gradient.
        reference_head: the reference's head over the same vocabulary.
        divergence: the form of the expected log-ratio, or an AlphaDivergence in its place; None leaves it out (DPO
            needs none).
        squares: whether the log of the sum of squared probabilities is wanted, which WPO asks for; it has no gradient.
        active: [N] bool; tokens that are false (both masks zero: neither loss nor gradient) get statistics of 0
            and cost no head product. How many they are is read from the device, and breaks a torch.compile graph.
        config: backend, tile size, memory budget.

    Returns:
        float32 statistics in nats (float64 for float64 inputs).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a label outside the vocabulary.
        UserError: a compiled backend asked for by name cannot be used here, or the config cannot work.
    """
    config.validate()
    _check(hidden, head, labels, reference_hidden, reference_head, divergence)
    tokens = len(labels)
    rows = None if active is None else _active_rows(active, labels, head)
    if rows is not None:
        hidden, labels = hidden[rows], labels[rows]
        reference_hidden = None if reference_hidden is None else reference_hidden[rows]
    ref_weight, ref_bias, ref_map = reference_head if reference_head is not None else (None, None, PLAIN)
    keep_bytes = config.keep_bytes if torch.is_grad_enabled() else 0
    logp, ref_logp, v, log_squares, *_ = token_stats_op(
        hidden.contiguous(), head.weight, head.bias, labels.contiguous(),
        None if reference_hidden is None else reference_hidden.contiguous(), ref_weight, ref_bias,
        *form_of(divergence), [*head.map, *ref_map], config.backend, config.tile_bytes, keep_bytes, squares,
    )  # fmt: skip
    stats = TokenStats(
        logp, None if reference_hidden is None else ref_logp, None if divergence is None else v,
        log_squares=log_squares if squares else None,
    )  # fmt: skip
    return stats if rows is None else _spread(stats, rows, tokens)


def _active_rows(active: Tensor, labels: Tensor, head: Head) -> Tensor | None:
    """The rows that are active; None if all of them are."""
    if active.shape != labels.shape or active.dtype != torch.bool or active.device != labels.device:
        raise ValueError(
            f"token_stats: active must be bool [{len(labels)}] on {labels.device}, "
            f"got {active.dtype} {tuple(active.shape)} on {active.device}"
        )
    rows = active.nonzero().squeeze(-1)
    if len(rows) == len(labels):
        return None
    check_labels(labels, head.weight.shape[0])  # the operator sees those of active rows only
    return rows


def _spread(stats: TokenStats, rows: Tensor, tokens: int) -> TokenStats:
    """Statistics of some rows, back in their places among all tokens, with zeros elsewhere."""

    def spread(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.new_zeros(tokens).index_copy(0, rows, values)

    logp = spread(stats.policy_logp)
    assert logp is not None
    return TokenStats(
        logp, spread(stats.reference_logp), spread(stats.divergence), complete=False,
        log_squares=spread(stats.log_squares),
    )  # fmt: skip


def _check(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    ref_hidden: Tensor | None,
    ref_head: Head | None,
    divergence: Divergence | None,
) -> None:
    _check_rows("hidden", hidden, head, labels)
    if (ref_hidden is None) != (ref_head is None):
        raise ValueError("token_stats: reference_hidden and reference_head go together; one of them is None")
    if divergence is not None and ref_hidden is None:
        raise ValueError(f"token_stats: divergence {divergence!r} needs reference_hidden and reference_head")
    if isinstance(divergence, AlphaDivergence):
        if not 0 < divergence.alpha < 1:
            raise ValueError(f"token_stats: the alpha of {divergence} must be between 0 and 1, both excluded")
    elif divergence not in (None, "policy", "reference"):
        raise ValueError(
            f"token_stats: divergence is 'policy', 'reference', an AlphaDivergence or None, not {divergence!r}"
        )
    if ref_hidden is not None and ref_head is not None:
        _check_rows("reference_hidden", ref_hidden, ref_head, labels)
        if ref_hidden.dtype != hidden.dtype:
            raise ValueError(
                f"token_stats: hidden is {hidden.dtype}, reference_hidden {ref_hidden.dtype}; cast one and its head"
            )
        if ref_head.weight.shape[0] != head.weight.shape[0]:
            raise ValueError(
                f"token_stats: the policy's vocabulary is {head.weight.shape[0]}, "
                f"the reference's {ref_head.weight.shape[0]}"
            )


def _check_rows(name: str, hidden: Tensor, head: Head, labels: Tensor) -> None:
    if not isinstance(head, Head):
        raise ValueError(f"token_stats: the head of {name} must be a Head(weight, bias), not a {type(head).__name__}")
    if hidden.dim() != 2 or labels.shape != hidden.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"token_stats: {name} must be [N, D] and labels [N] int64, "
            f"got {tuple(hidden.shape)} and {tuple(labels.shape)} {labels.dtype}"
        )
    if head.weight.dim() != 2 or head.weight.shape[1] != hidden.shape[1]:
        raise ValueError(f"token_stats: {name} {tuple(hidden.shape)} and head {tuple(head.weight.shape)} do not fit")
    if head.bias is not None and head.bias.shape != head.weight.shape[:1]:
        raise ValueError(f"token_stats: bias {tuple(head.bias.shape)}, expected ({head.weight.shape[0]},)")
    bias = head.weight if head.bias is None else head.bias
    if not hidden.dtype == head.weight.dtype == bias.dtype:
        raise ValueError(
            f"token_stats: {name} is {hidden.dtype}, its head {head.weight.dtype}, its bias {bias.dtype}; "
            "cast them to one dtype"
        )
    if not 0 < head.map.scale < math.inf or not head.map.cap > 0:
        raise ValueError(f"token_stats: the head of {name} has {head.map}; both must be above 0, and the scale finite")
    if not hidden.is_floating_point():
        raise ValueError(f"token_stats: {name} must be floating point, it is {hidden.dtype}")
    if not hidden.device == head.weight.device == bias.device == labels.device:
        raise ValueError(
            f"token_stats: {name}, head, bias and labels are on {hidden.device}, {head.weight.device}, {bias.device} "
            f"and {labels.device}"
        )

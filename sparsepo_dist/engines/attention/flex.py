"""FlexAttention for the packed layouts: one kernel over all tokens of a micro-batch that skips what no token sees.

Shapes: T packed tokens, padded inside the attention only to whole tiles of 128; H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.attention.reach import FULL, Reach
from sparsepo_dist.engines.attention.registration import register
from sparsepo_dist.engines.attention.spans import Spans, token_spans
from sparsepo_dist.engines.attention.terms import PLAIN, Terms
from sparsepo_dist.errors import UserError, shortened

FLEX = "sparsepo_flex"
TILE = 128
FEWEST_TILES = 2  # torch.compile makes a kernel of its own for sizes of 1
_RECOMPILATIONS = 64


class Heads(NamedTuple):
    """Shape of a model's attention: heads of its queries, heads of its keys and values, and their width d."""

    queries: int
    keys: int
    width: int


def flex_inputs(batch: PackedBatch, reach: Reach = FULL) -> dict[str, Any]:
    """What `flex_block_attention` is told of a micro-batch, the same for all layers of one reach in a forward pass."""
    return {"block_mask": block_mask(token_spans(batch, reach))}


def flex_block_attention(
    query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any], *, scaling: float | None, dropout: float,
    terms: Terms,
) -> Tensor:  # fmt: skip
    """Attention by FlexAttention: [1, H, T, d] in (fewer heads in key and value: grouped queries), [1, T, H, d] out.

    Compiled on GPUs. On CPUs, where it has no gradient, it runs uncompiled and makes T x T scores: for tests.

    Raises:
        UserError: dropout.
    """
    if dropout:
        raise UserError("model.attention: FlexAttention has no dropout; say --model.attention blockwise")
    mask: BlockMask = told["block_mask"]
    tokens = query.shape[2]
    padding = mask.seq_lengths[0] - tokens
    if padding:
        query, key, value = (F.pad(states, (0, 0, 0, padding)) for states in (query, key, value))
    attended = attend(query, key, value, mask, scaling, terms)
    return attended[:, :, :tokens].transpose(1, 2)


register(FLEX, flex_block_attention)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None, terms: Terms = PLAIN
) -> Tensor:
    """[1, H, T, d] in and out: the kernel itself, for whole tiles of tokens.

    A sink takes its share of each softmax, which the sum of the others, that the kernel has anyway, decides.
    """
    run: Any = flex_attention if query.device.type == "cpu" else _compiled()
    extra: dict[str, Any] = {} if terms.softcap is None else {"score_mod": _capped(terms.softcap)}
    if terms.sinks is not None:
        extra["return_aux"] = AuxRequest(lse=True)
    # Always a number: None and the number it stands for would be compiled each for itself.
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    grouped = query.shape[1] != key.shape[1]
    found = run(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped, **extra)
    if terms.sinks is None:
        attended: Tensor = found
        return attended
    attended, sums = found
    share = torch.sigmoid(sums.lse - terms.sinks.to(sums.lse.dtype)[:, None])
    return attended * share.unsqueeze(-1).to(attended.dtype)


@cache
def _capped(cap: float) -> Callable[..., Tensor]:
    """A function of its own for each cap, the same one each time: another one would be compiled anew."""

    def capped(score: Tensor, _: Tensor, __: Tensor, ___: Tensor, ____: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


def block_mask(spans: Spans) -> BlockMask:
    """Which tiles of 128 queries x 128 keys are computed, and by what rule within those that are not seen whole.

    Padding tokens see only themselves, which keeps the softmax finite; nothing reads their output.
    """
    tokens = len(spans.first)
    length = max(FEWEST_TILES, -(-tokens // TILE)) * TILE
    padding = torch.arange(tokens, length, dtype=torch.int32, device=spans.first.device)
    first = torch.cat([spans.first, padding])
    hidden_from, hidden_to = (F.pad(limit, (0, len(padding))) for limit in spans[1:])

    def sees(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return Spans(first, hidden_from, hidden_to).see(query, key)

    partial, whole = seen_tiles(Spans(first, hidden_from, hidden_to))
    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(whole), BLOCK_SIZE=TILE, mask_mod=sees, seq_lengths=(length, length)
    )


def seen_tiles(spans: Spans) -> tuple[Tensor, Tensor]:
    """Bool [T / 128, T / 128] each: tiles that are seen in part, and those whose queries all see all of their keys.

    Exact, though no pair of tokens is looked at: each query is held against each tile of keys. Those up to the query
    that it sees begin at `first`, but for what is hidden, where none of them begins.
    """
    query = torch.arange(len(spans.first), device=spans.first.device)[:, None]
    starts = query[::TILE, 0]
    ends = starts + TILE
    first, hidden_from, hidden_to = (limit[:, None] for limit in spans)
    some = (starts <= query) & (ends > first) & ~((starts >= hidden_from) & (ends <= hidden_to))
    whole = (ends <= query + 1) & (starts >= first) & ((ends <= hidden_from) | (starts >= hidden_to))
    some, whole = some.unflatten(0, (-1, TILE)).any(1), whole.unflatten(0, (-1, TILE)).all(1)
    return some & ~whole, whole


def _listed(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """As BlockMask has them: [1, 1, rows] int32 tiles in each row, [1, 1, rows, columns] int32 which, those first."""
    order = tiles.int().argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


@cache
def _compiled() -> Callable[..., Tensor]:
    """FlexAttention, compiled once for every length; beyond the limit it would fail, not run T x T uncompiled."""
    # With and without gradient, for each shape of heads: policy, reference and oracle need more than the default of 8.
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, _RECOMPILATIONS)
    return torch.compile(flex_attention, fullgraph=True)


@cache
def flex_failure(heads: Heads, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why FlexAttention cannot run for such heads on this GPU, found by running it, not raised; None where it can.

    Forward and backward, for two lengths: the second is what makes the compiled kernel one for all lengths, so that
    training has nothing left to compile.
    """
    try:
        with torch.enable_grad():
            for tiles in (FEWEST_TILES, FEWEST_TILES + 1):
                _try_length(tiles * TILE, heads, dtype, device)
    except Exception as error:  # whatever the compiler, its drivers or the GPU's limits raise
        return f"{type(error).__name__}: {shortened(str(error), 300)}"
    return None


def _try_length(length: int, heads: Heads, dtype: torch.dtype, device: torch.device) -> None:
    zeros = torch.zeros(length, dtype=torch.int32, device=device)
    query, key, value = (
        torch.zeros(1, count, length, heads.width, dtype=dtype, device=device, requires_grad=True)
        for count in (heads.queries, heads.keys, heads.keys)
    )
    inputs = {"block_mask": block_mask(Spans(zeros, zeros, zeros))}
    attended = flex_block_attention(query, key, value, inputs, scaling=None, dropout=0.0, terms=PLAIN)
    gradients = torch.autograd.grad(attended.sum(), (query, key, value))
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise ArithmeticError("its gradients are not finite")

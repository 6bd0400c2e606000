"""What a decoder keeps and needs while it runs, found by running it on tensors without data.

Forward and backward; `plan.decoder` says for how many blocks. Whatever autograd saves, upcasts of norms and attention
masks included, counts as it would for real; for attention kernels that only GPUs have, something that keeps the same
stands in. Parameters and their gradients do not count: ZeRO decides where those are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from deepspeed.runtime.zero.linear import zero3_linear_wrap
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.attention import flex
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.structure import make_fake
from sparsepo_dist.errors import UserError
from sparsepo_dist.plan.asked.shapes import batch_like
from sparsepo_dist.plan.model.decoder import Decoder, over_all_blocks, short_model
from sparsepo_dist.plan.model.tracker import LiveBytes


class Activations(NamedTuple):
    """Bytes of activations of a decoder without its head, trained on one micro-batch."""

    kept: int
    """Alive when the forward pass has ended: what the backward pass needs, and the output."""
    forward: int
    """Most at once in the forward pass."""
    backward: int
    """Most at once in the backward pass: what is kept, and temporaries of the last block."""
    last: int
    """Most at once when backward has come to the first block, where nothing of the others is kept any more."""


_training: dict[str, Activations] = {}
_scoring: dict[str, int] = {}


def activations(decoder: Decoder) -> Activations:
    """Activations of a whole decoder that is trained, from runs of short ones.

    Raises:
        UserError: the model's code needs more than shapes; or its attention cannot be what was asked for.
    """
    if decoder.key not in _training:
        with _explained(decoder):
            whole, block = over_all_blocks(decoder, _train)
        found = Activations(*map(int, whole))
        _training[decoder.key] = found._replace(last=int(found.backward - (decoder.blocks - 1) * block[0]))
    return _training[decoder.key]


def scoring_peak(decoder: Decoder) -> int:
    """Most bytes of activations at once where a whole decoder, without its head, scores without a gradient.

    Raises:
        UserError: as for `activations`.
    """
    if decoder.key not in _scoring:
        with _explained(decoder):
            (peak,), _ = over_all_blocks(decoder, _score)
        _scoring[decoder.key] = int(peak)
    return _scoring[decoder.key]


@contextmanager
def _explained(decoder: Decoder) -> Iterator[None]:
    torchs_own = logging.getLogger(torch._subclasses.fake_tensor.__name__)  # prints stack traces of what is said here
    before, torchs_own.disabled = torchs_own.disabled, True
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a model's own code raises where it looks at data
        raise UserError(
            f"plan: activations of a {decoder.config.model_type} model in {decoder.dtype} cannot be found without "
            f"running it: {str(error).splitlines()[0]}"
        ) from error
    finally:
        torchs_own.disabled = before


def _train(decoder: Decoder, blocks: int) -> Activations:
    with _without_data(decoder, blocks) as (base, batch, bytes_):
        hidden = hidden_at(base, batch)
        kept, forward = bytes_.live, bytes_.peak
        gradient = torch.empty_like(hidden)
        bytes_.mark()
        hidden.backward(gradient)
        return Activations(kept, forward, bytes_.peak, 0)


def _score(decoder: Decoder, blocks: int) -> tuple[int]:
    with _without_data(decoder, blocks) as (base, batch, bytes_), torch.no_grad():
        hidden_at(base, batch)
        return (bytes_.peak,)


@contextmanager
def _without_data(decoder: Decoder, blocks: int) -> Iterator[tuple[PreTrainedModel, PackedBatch, LiveBytes]]:
    """A short decoder's body, a micro-batch for it and what counts their bytes, all without data."""
    model = short_model(decoder, blocks)
    with linears(decoder.linears_keep_input), _fused_attention(), FakeTensorMode():
        make_fake(model)
        base, batch = backbone(model), batch_like(decoder.shape)
        inputs = [value for record in (batch, batch.attention) if record for value in vars(record).values()]
        ignored = [*model.parameters(), *model.buffers(), *(v for v in inputs if isinstance(v, Tensor))]
        with LiveBytes(ignored) as bytes_:
            yield base, batch, bytes_


@contextmanager
def linears(keep_input: bool) -> Iterator[None]:
    """torch's linear, or the one that DeepSpeed puts in its place."""
    before: Any = F.linear
    F.linear = zero3_linear_wrap if keep_input else torch._C._nn.linear
    try:
        yield
    finally:
        F.linear = before


class _FusedAttention(torch.autograd.Function):
    """Keeps what FlexAttention and FlashAttention keep: inputs, output, and a float32 for each row of it."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, attended, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, rows = ctx.saved_tensors
        torch.empty_like(rows)  # each row's product of output and gradient
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def _fused_attention() -> Iterator[None]:
    """A stand-in for FlexAttention's kernel, which only GPUs have in full."""
    before: Any = flex.attend
    flex.attend = lambda query, key, value, *_: _FusedAttention.apply(query, key, value)
    try:
        yield
    finally:
        flex.attend = before

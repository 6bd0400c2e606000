"""What a decoder keeps and needs while it runs, found by running it on tensors without data.

transformers' own code is executed in torch's fake mode, forward and backward, with two and three blocks; the
difference is a block's cost. Whatever autograd saves, upcasts of norms and attention masks included, counts as it
would for real; for attention kernels that only GPUs have, something that keeps the same stands in. Parameters and their
gradients do not count: ZeRO decides where those are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from deepspeed.runtime.zero.linear import zero3_linear_wrap
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig, PreTrainedModel

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.activation_checkpointing import checkpoint_activations
from sparsepo_dist.engines.attention import flex
from sparsepo_dist.engines.attention.choice import AttentionSetting
from sparsepo_dist.engines.attention.varlen import VARLEN
from sparsepo_dist.engines.config import AttentionName, Checkpointing, LoraSettings
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.structure import adapt, empty_model, make_fake
from sparsepo_dist.errors import UserError
from sparsepo_dist.plan.shapes import BatchShape, batch_like
from sparsepo_dist.plan.tracker import LiveBytes

FEWER, MORE = 2, 3  # blocks: with a single one, the first would be the last
SMALL_VOCABULARY = 8  # embedding and head are counted elsewhere


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


class Decoder(NamedTuple):
    """What decides the activations of a decoder."""

    config: PretrainedConfig
    dtype: torch.dtype
    shape: BatchShape
    adapter: LoraSettings | None
    checkpointing: Checkpointing
    dropout: bool
    linears_keep_input: bool
    trust_remote_code: bool
    attention: AttentionName = "auto"

    @property
    def key(self) -> str:
        """Equal for decoders with the same activations."""
        return repr((self.config.to_json_string(use_diff=False), *self[1:]))


_training: dict[str, Activations] = {}
_scoring: dict[str, int] = {}


def activations(decoder: Decoder) -> Activations:
    """Activations of a whole decoder that is trained, from runs of short ones.

    Raises:
        UserError: the model's code needs more than shapes; or its attention cannot be what was asked for.
    """
    if decoder.key not in _training:
        with _explained(decoder):
            few, more = (_train(decoder, blocks) for blocks in (FEWER, MORE))
        blocks = decoder.config.num_hidden_layers
        whole = Activations(*(a + (blocks - FEWER) * (b - a) for a, b in zip(few, more, strict=True)))
        _training[decoder.key] = whole._replace(last=whole.backward - (blocks - 1) * (more.kept - few.kept))
    return _training[decoder.key]


def scoring_peak(decoder: Decoder) -> int:
    """Most bytes of activations at once where a whole decoder, without its head, scores without a gradient.

    Raises:
        UserError: as for `activations`.
    """
    if decoder.key not in _scoring:
        with _explained(decoder):
            few, more = (_score(decoder, blocks) for blocks in (FEWER, MORE))
        _scoring[decoder.key] = few + (decoder.config.num_hidden_layers - FEWER) * (more - few)
    return _scoring[decoder.key]


@contextmanager
def _explained(decoder: Decoder) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a model's own code raises where it looks at data
        raise UserError(
            f"plan: activations of a {decoder.config.model_type} model in {decoder.dtype} cannot be found without "
            f"running it: {str(error).splitlines()[0]}"
        ) from error


def _train(decoder: Decoder, blocks: int) -> Activations:
    with _without_data(decoder, blocks) as (base, batch, bytes_):
        hidden = hidden_at(base, batch)
        kept, forward = bytes_.live, bytes_.peak
        gradient = torch.empty_like(hidden)
        bytes_.mark()
        hidden.backward(gradient)
        return Activations(kept, forward, bytes_.peak, 0)


def _score(decoder: Decoder, blocks: int) -> int:
    with _without_data(decoder, blocks) as (base, batch, bytes_), torch.no_grad():
        hidden_at(base, batch)
        return bytes_.peak


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


def short_model(decoder: Decoder, blocks: int) -> PreTrainedModel:
    """The decoder with so many blocks, on the meta device, as it is trained.

    Raises:
        UserError: the attention that was asked for cannot be, or an adapter's targets fit nothing.
    """
    config = copy.deepcopy(decoder.config)
    config.num_hidden_layers = blocks
    config.vocab_size, config.pad_token_id = SMALL_VOCABULARY, None
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == decoder.config.num_hidden_layers:
            setattr(config, name, value[:blocks])
        elif "drop" in name and isinstance(value, float) and not decoder.dropout:
            setattr(config, name, 0.0)
    device = torch.device(decoder.shape.device)
    model = empty_model(
        config, decoder.dtype, decoder.shape.layout, trust_remote_code=decoder.trust_remote_code,
        attention=AttentionSetting(decoder.attention, device, decoder.dropout, present=False),
    )  # fmt: skip
    if model.config._attn_implementation == VARLEN:
        model.config._attn_implementation = flex.FLEX  # keeps the same, and needs no package
    if decoder.adapter is not None:
        adapt(model, decoder.adapter, decoder.dtype)
    checkpoint_activations(model, decoder.checkpointing)
    return model.train()


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

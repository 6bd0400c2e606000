"""A decoder that is planned: shortened, and what runs of short ones say of the whole.

transformers' own code is executed in torch's fake mode with two and three blocks; the difference is a block's cost.
Where blocks are not alike (hybrids; dense ones before experts) all of them are run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PretrainedConfig, PreTrainedModel

from sparsepo_dist.engines.activation_checkpointing import checkpoint_activations
from sparsepo_dist.engines.attention import flex
from sparsepo_dist.engines.attention.choice import AttentionSetting
from sparsepo_dist.engines.attention.varlen import VARLEN
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.config import AttentionName, Checkpointing, LoraSettings
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.structure import adapt, empty_model, make_fake
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks.decoder import decoder_blocks
from sparsepo_dist.plan.asked.shapes import BatchShape, batch_like

FEWER, MORE = 2, 3  # blocks: with a single one, the first would be the last
_SHORT = 16  # tokens
SMALL_VOCABULARY = 8  # embedding and head are counted elsewhere


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

    @property
    def blocks(self) -> int:
        """Of the whole decoder."""
        return int(text_config(self.config).num_hidden_layers)


def short_model(decoder: Decoder, blocks: int) -> PreTrainedModel:
    """The decoder with so many blocks, on the meta device, as it is trained.

    Raises:
        UserError: the attention that was asked for cannot be, or an adapter's targets fit nothing.
    """
    config = copy.deepcopy(decoder.config)
    text = text_config(config)
    text.num_hidden_layers = blocks
    text.vocab_size, text.pad_token_id = SMALL_VOCABULARY, None
    for name, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == decoder.blocks:
            setattr(text, name, value[:blocks])
        elif "drop" in name and isinstance(value, float) and not decoder.dropout:
            setattr(text, name, 0.0)
    device = torch.device(decoder.shape.device)
    model = empty_model(
        config, decoder.dtype, decoder.shape.layout, trust_remote_code=decoder.trust_remote_code,
        attention=AttentionSetting(decoder.attention, device, decoder.dropout, present=False),
    )  # fmt: skip
    attention: Any = backbone(model).config
    if attention._attn_implementation == VARLEN:
        attention._attn_implementation = flex.FLEX  # keeps the same, and needs no package
    if decoder.adapter is not None:
        adapt(model, decoder.adapter, decoder.dtype)
    checkpoint_activations(model, decoder.checkpointing)
    return model.train()


def over_all_blocks(
    decoder: Decoder, run: Callable[[Decoder, int], Sequence[float]]
) -> tuple[list[float], list[float]]:  # fmt: skip
    """What `run` gives for a whole decoder, from short ones where its blocks are alike; and what a block adds, on the
    mean where they are not. `run` takes the decoder and its number of blocks. Raises UserError as `short_model`, or
    for layers that take operators for every token."""
    blocks = decoder.blocks
    if blocks < MORE or not _alike(decoder):
        _refuse_scans(decoder)
        whole = list(run(decoder, blocks))
        return whole, [value / blocks for value in whole]
    few, more = (run(decoder, count) for count in (FEWER, MORE))
    block = [b - a for a, b in zip(few, more, strict=True)]
    return [a + (blocks - FEWER) * one for a, one in zip(few, block, strict=True)], block


def _alike(decoder: Decoder) -> bool:
    """Whether all blocks are made of the same modules with parameters of the same shapes."""
    plain = decoder._replace(adapter=None, checkpointing=False)
    try:
        blocks = decoder_blocks(backbone(short_model(plain, decoder.blocks)))
    except UserError:  # they cannot be told from other modules
        return False
    return len({_make(block) for block in blocks}) == 1


def _refuse_scans(decoder: Decoder) -> None:
    """Raise UserError for a model of which some layer takes operators for every token: its plan would take hours."""
    few, more = (_operators(decoder, tokens) for tokens in (_SHORT, 2 * _SHORT))
    if more - few >= _SHORT:
        raise UserError(
            f"plan: a {decoder.config.model_type} model has layers that are computed token by token without kernels of "
            "their own, which a plan cannot follow; try the run itself, on few steps (training.max_steps)"
        )


def _operators(decoder: Decoder, tokens: int) -> int:
    """How many operators a forward pass over one sequence takes."""
    model = short_model(decoder._replace(shape=decoder.shape._replace(layout="padded")), decoder.blocks)
    with FakeTensorMode(), torch.no_grad():
        make_fake(model)
        batch = batch_like(BatchShape(tokens, 1, 1, tokens, "padded"))
        with _Operators() as counted:
            hidden_at(backbone(model), batch)
    return counted.calls


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def _make(block: nn.Module) -> tuple[object, ...]:
    modules = [(name, type(module)) for name, module in block.named_modules()]
    return (*modules, *((name, parameter.shape) for name, parameter in block.named_parameters()))

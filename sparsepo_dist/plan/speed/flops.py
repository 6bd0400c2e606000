"""Floating-point operations of a step's matrix products: those that are really done, and those it cannot do without.

Done: transformers' own code runs in torch's fake mode, as for activations, and torch counts; so attention calls (whole,
also where they are causal), activation checkpointing's recomputation and what an adapter leaves out are in it as they
are. Necessary: a formula. FlexAttention and FlashAttention, which only GPUs run, are counted as block-wise attention,
which does no less. A product of [m, k] and [k, n] is 2 m k n. Mask heads, norms and activations count as nothing.

Shapes: T packed tokens, N response tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import PretrainedConfig

from sparsepo_dist.engines.attention.blockwise import BLOCKWISE
from sparsepo_dist.engines.attention.flex import FLEX
from sparsepo_dist.engines.composite import auto_class, text_config
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.structure import make_fake
from sparsepo_dist.ops.tiles import plan_tiles
from sparsepo_dist.plan.asked.request import Setting
from sparsepo_dist.plan.asked.shapes import BatchShape, batch_like
from sparsepo_dist.plan.model.activations import linears
from sparsepo_dist.plan.model.census import Census
from sparsepo_dist.plan.model.decoder import Decoder, over_all_blocks, short_model
from sparsepo_dist.plan.needs.pieces import frozen_decoders, policy_decoder


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


_CPU_ATTENTION = {  # torch's counter knows the kernels of GPUs only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class BodyFlops(NamedTuple):
    """Operations of a decoder without its head, for one micro-batch."""

    forward: float
    backward: float
    """Recomputation included."""


class StepFlops(NamedTuple):
    """Operations of one micro-batch, by part."""

    policy_forward: float
    policy_backward: float
    reference: float
    """Bodies of all frozen models, and the policy's own with its adapter off."""
    heads: float
    """Of all models, forward and backward."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


def done_flops(setting: Setting, census: Census, shape: BatchShape, *, first_pass: bool) -> StepFlops:
    """Operations of a micro-batch's products as the trainer does it.

    Args:
        setting: of the run.
        census: of the run.
        shape: of the micro-batch.
        first_pass: whether the policy runs forward once more, for an objective that looks at the global batch first.

    Raises:
        UserError: as `short_model`.
    """
    policy = body_flops(policy_decoder(setting, shape))
    frozen = sum(body_flops(decoder).forward for decoder in frozen_decoders(setting, shape))
    if setting.placement == "adapter":
        frozen += body_flops(policy_decoder(setting, shape)._replace(adapter=None, checkpointing=False)).forward
    forward, backward = _head_flops(setting, census, shape)
    passes = 2 if first_pass else 1
    return StepFlops(policy.forward * passes, policy.backward, frozen, forward * passes + backward)


_counted: dict[str, BodyFlops] = {}


def body_flops(decoder: Decoder) -> BodyFlops:
    """Operations of a whole decoder's products. Raises UserError as `over_all_blocks`."""
    if decoder.key not in _counted:
        _counted[decoder.key] = BodyFlops(*over_all_blocks(decoder, _run)[0])
    return _counted[decoder.key]


def _run(decoder: Decoder, blocks: int) -> BodyFlops:
    model = short_model(decoder, blocks)
    base: Any = backbone(model)
    if base.config._attn_implementation == FLEX:
        base.config._attn_implementation = BLOCKWISE
    with linears(decoder.linears_keep_input), FakeTensorMode():
        make_fake(model)
        batch = batch_like(decoder.shape)
        with counter() as counted:
            hidden = hidden_at(base, batch)
            forward = counted.get_total_flops()
            if hidden.requires_grad:
                hidden.backward(torch.empty_like(hidden))
            return BodyFlops(forward, counted.get_total_flops() - forward)


def counter() -> FlopCounterMode:
    """torch's counter, which knows the CPU's attention too."""
    return FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)


def _head_flops(setting: Setting, census: Census, shape: BatchShape) -> tuple[float, float]:
    """(forward, backward) of the fused operation over a micro-batch whose every token is active, of frozen engines'
    own heads too."""
    ops, divergence = setting.config.ops, setting.needs.divergence is not None
    weight = max(census.heads.weights, key=lambda w: w.numel * (w.role != "reference head"))
    product = 2.0 * shape.predicted * weight.numel
    both = 2 if divergence else 1
    tiles = plan_tiles(
        shape.predicted, text_config(setting.policy).vocab_size, models=both, kept_models=both,
        element_size=setting.element_size, tile_bytes=ops.tile_bytes, keep_bytes=ops.keep_bytes,
    )  # fmt: skip
    again = 1 - tiles.kept / (tiles.bands * tiles.columns)
    scored = setting.placement is not None and (divergence or setting.placement != "cached")
    forward = product * (1 + scored + len(setting.oracles))
    return forward, product * (both * again + 1 + weight.trained)


def necessary_flops(
    config: PretrainedConfig, pairs: Sequence[Sequence[int]], *, trained: bool = True, reference: bool = True,
    trust_remote_code: bool = False,
) -> float:  # fmt: skip
    """Operations of the products that a step cannot do without, each prompt once; heads at response tokens only.

    The policy forward and twice that backward (once if it is frozen but for an adapter), the reference forward.

    Args:
        config: of the policy, and of the reference.
        pairs: tokens of each pair's prompt and of its responses.
        trained: whether all of the policy is trained.
        reference: whether there is one.
        trust_remote_code: whether a model's own code may run.
    """
    with torch.device("meta"):
        model = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    head, decoder, text = model.get_output_embeddings().weight, backbone(model), text_config(config)
    tables = {id(module.weight) for module in decoder.modules() if isinstance(module, nn.Embedding)}
    body = (p for p in decoder.parameters() if p.dim() == 2 and p is not head and id(p) not in tables)
    matrices, layers = sum(p.numel() for p in body), _attending(text)
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    total = 0.0
    for prompt, *responses in pairs:
        inputs = [response - 1 for response in responses]
        seen = prompt * (prompt + 1) / 2 + sum(n * prompt + n * (n + 1) / 2 for n in inputs)
        total += 2 * matrices * (prompt + sum(inputs)) + 4 * width * layers * seen + 2 * head.numel() * sum(responses)
    return (1 + (2 if trained else 1) + reference) * total


def _attending(text: PretrainedConfig) -> int:
    """Layers whose tokens attend to each other, rather than to a state that stands for those before them."""
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
    if not kinds:
        return int(text.num_hidden_layers)
    return sum(kind == "hybrid" or ("attention" in kind and not kind.startswith("linear")) for kind in kinds)

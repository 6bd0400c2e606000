"""Activation checkpointing: what of a decoder block is kept for backward, and what is computed again."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from sparsepo_dist.engines.config import Checkpointing
from sparsepo_dist.engines.decoder.backbone import backbone
from sparsepo_dist.errors import UserError

_aten = torch.ops.aten
_KEPT = frozenset(
    {
        _aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default, _aten.linear.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default, _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default, _aten._scaled_dot_product_cudnn_attention.default,
    }
)  # fmt: skip


def checkpoint_activations(model: PreTrainedModel, mode: Checkpointing) -> None:
    """Have a model's blocks computed again in backward: nothing, all of them, or all but products and attention.

    Raises:
        UserError: the model's code has no blocks that could be.
    """
    if not mode:
        return
    if not backbone(model).supports_gradient_checkpointing:
        raise UserError(
            f"model.activation_checkpointing: {type(model).__name__} does not support it in transformers; leave it out"
        )
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    with warnings.catch_warnings():  # the oldest transformers that serves has this name only
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing_enable", category=FutureWarning)
        backbone(model).gradient_checkpointing_enable(options)


def _policy(_: Any, operation: Any, *arguments: Any, **keywords: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE

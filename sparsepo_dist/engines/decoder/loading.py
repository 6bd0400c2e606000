"""Load any transformers decoder for training or scoring, sharded while it loads under ZeRO-3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.adapters.lora import keep_packed, quantisation
from sparsepo_dist.engines.adapters.packing import pack_experts
from sparsepo_dist.engines.attention.choice import CPU, AttentionSetting, attention_implementation, tried_attention
from sparsepo_dist.engines.composite import auto_class, decoder_class, freeze_other_parts
from sparsepo_dist.engines.config import AttentionName
from sparsepo_dist.engines.decoder.backbone import backbone
from sparsepo_dist.engines.decoder.configuration import UNREADABLE
from sparsepo_dist.engines.decoder.finite import not_finite
from sparsepo_dist.engines.deepspeed.distributed import of_all_ranks
from sparsepo_dist.engines.deepspeed.sharding import announced
from sparsepo_dist.engines.layouts.preparation import prepare
from sparsepo_dist.errors import UserError, unreadable


def load_model(
    path: str,
    config: PretrainedConfig,
    *,
    dtype: torch.dtype,
    layout: Layout,
    zero3: dict[str, Any] | None,
    quantised: bool = False,
    disable_dropout: bool = True,
    trust_remote_code: bool = False,
    attention: AttentionName = "auto",
    device: torch.device | None = None,
) -> PreTrainedModel:
    """A causal language model; with `zero3`, a ds_config of stage 3, each rank keeps its shard from the start.

    Of a composite, nothing but the text decoder and the head has a gradient.

    `quantised` matrices (4 bits) cannot be sharded while they load: each rank reads all of them first. `device`, the
    CPU where not given, is where it will run, which decides its attention; it is not put there.

    Raises:
        UserError: tensors are missing, which transformers would draw at random, or not finite (on every rank); or
            `attention` cannot be.
    """
    extra: dict[str, Any] = {"quantization_config": quantisation(dtype)} if quantised else {}
    setting = AttentionSetting(attention, device or CPU, dropout=not disable_dropout)
    implementation = tried_attention(config, decoder_class(config), layout, dtype, setting)
    with announced(None if quantised else zero3):
        model, found = auto_class(config).from_pretrained(
            path,
            output_loading_info=True,
            config=config,
            dtype=dtype,
            attn_implementation=implementation,
            trust_remote_code=trust_remote_code,
            **extra,
        )
    check_complete(path, found)
    check_finite(path, model, dtype)
    if quantised:
        keep_packed(model)
        pack_experts(model, dtype)
    _keep_used_conversions(model)
    freeze_other_parts(model, backbone(model))
    prepare(backbone(model), layout)
    if disable_dropout:
        _zero_dropout(model)
    return model


def load_generator(
    path: str, *, dtype: torch.dtype | Literal["auto"], field: str = "model.path", trust_remote_code: bool = False
) -> PreTrainedModel:
    """A causal language model as transformers has it, to sample from; `field` names it in messages, and with the dtype
    "auto" its weights stay as they are stored.

    Raises:
        UserError: it cannot be found, is no causal language model, or tensors are missing or not finite.
    """
    try:
        # Unsaid, transformers asks at the terminal whether the model's own code may run.
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        model, found = auto_class(config).from_pretrained(
            path, dtype=dtype, output_loading_info=True, trust_remote_code=trust_remote_code
        )
    except (*UNREADABLE, SafetensorError, RuntimeError) as error:
        raise UserError(f"{field} {path}: no causal language model could be loaded: {unreadable(error, 200)}") from None
    check_complete(path, found)
    check_finite(path, model, model.dtype)
    return model


def check_complete(path: str, found: Mapping[str, Any]) -> None:
    """Raise UserError if `found`, transformers' loading information, says that tensors are missing."""
    missing = found["missing_keys"]
    if missing:
        raise UserError(
            f"the model folder {path} is incomplete: {len(missing)} tensors are missing, among them {min(missing)}"
        )


def check_finite(path: str, model: nn.Module, dtype: torch.dtype) -> None:
    """Raise UserError if a weight is not finite as it was loaded, on any rank. Every rank must call this.

    Frozen models are looked at as well: what they say would spoil every loss.
    """
    elsewhere = {name for names in of_all_ranks(not_finite(model.named_parameters())) for name in names}
    odd = [name for name, _ in model.named_parameters() if name in elsewhere]
    if odd:
        more = f", and so do {len(odd) - 1} more tensors" if len(odd) > 1 else ""
        raise UserError(
            f"the model {path}: {odd[0]} holds NaN or Inf in {str(dtype).removeprefix('torch.')}{more}; such a model "
            "cannot be computed with. Use an earlier checkpoint of it, or fetch it again"
        )


def attention_for(
    config: PretrainedConfig, layout: Layout, dtype: torch.dtype, setting: AttentionSetting | None = None
) -> str:
    """The `attn_implementation` of the model that a configuration describes, for a layout; on a CPU where not said
    otherwise.

    Raises:
        UserError: what was asked for by name cannot be.
    """
    return attention_implementation(config, decoder_class(config), layout, dtype, setting or AttentionSetting())


def _keep_used_conversions(model: PreTrainedModel) -> None:
    """Under ZeRO-3 transformers notes all changes of names that a family knows, and saving would undo those too that
    its files did not need."""
    noted: Any = getattr(model, "_weight_conversions", None)
    if noted:
        model._weight_conversions = [conversion for conversion in noted if conversion.was_used()]


def _zero_dropout(model: nn.Module) -> None:
    """In the modules, not in the configuration: the saved model keeps the rates it came with."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)

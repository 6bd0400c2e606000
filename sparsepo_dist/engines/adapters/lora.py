"""LoRA and QLoRA: adapters on the policy, and the reference as the same model with them off. peft does the work.

peft is imported where it is called: it brings bitsandbytes and torch's compiler, a fifth of every rank's start.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from sparsepo_dist.engines.adapters.experts import expert_targets
from sparsepo_dist.engines.adapters.files import adapter_settings, adapter_weights
from sparsepo_dist.engines.adapters.packing import stand_ins
from sparsepo_dist.engines.adapters.saved_modules import check_copies, choose_copies, keep_copies
from sparsepo_dist.engines.adapters.vocabulary import check_vocabulary
from sparsepo_dist.engines.composite import outside_text
from sparsepo_dist.engines.config import ALL_LINEAR, LoraSettings
from sparsepo_dist.engines.deepspeed.sharding import announced
from sparsepo_dist.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

POLICY, REFERENCE = "policy", "reference"
_STAGE_3 = {"zero_optimization": {"stage": 3}}


def quantisation(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation. Packed bytes are stored as `dtype`, which DeepSpeed may then move and cast."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
    )


def keep_packed(model: nn.Module) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes repacks 4-bit weights for good at the first forward in evaluation mode;
    training after that fails or silently has no gradient."""
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def add_adapters(
    model: PreTrainedModel, settings: LoraSettings, dtype: torch.dtype, *, base: str, start: str | None,
    reference: str | None,
) -> str | None:  # fmt: skip
    """Freeze a model and put the trained adapter on it, and the reference's where that has one.

    Args:
        model: in place; its parameters may be sharded.
        base: path of the model, noted in the adapter that is saved.
        start: folder of the adapter to start from.
        reference: folder of the reference's adapter, frozen.

    Returns:
        The name of the reference's adapter: None where the reference is the model without any.

    Raises:
        UserError: an adapter that does not fit, or targets that name the LM head, embeddings or nothing.
    """
    model.requires_grad_(False)
    if reference is not None:
        _load(model, reference, REFERENCE, dtype)
    if start is not None:
        _load(model, start, POLICY, dtype, base=base, settings=settings)
    else:
        config = _lora_config(settings, base)
        if settings.targets == ALL_LINEAR:
            with stand_ins(model):
                config.target_parameters = expert_targets(model) or None
        _inject(model, config, POLICY, dtype, "lora.targets")
    for layer in _layers(model):
        layer.set_adapter(POLICY)
    choose_copies(model, POLICY, trained=True)
    return None if reference is None else REFERENCE


def add_frozen_adapter(model: PreTrainedModel, folder: str, dtype: torch.dtype) -> None:
    """Put an adapter on a model that is not trained. Raises UserError where it does not fit."""
    _load(model, folder, REFERENCE, dtype)
    keep_copies(model, REFERENCE)
    model.requires_grad_(False)


@contextmanager
def as_reference(model: PreTrainedModel, adapter: str | None) -> Iterator[None]:
    """While open, the model is the reference: adapters off, or the named one in place of the policy's; no dropout."""
    training, layers = model.training, list(_layers(model))
    model.eval()
    for layer in layers:
        if adapter is None:
            layer.enable_adapters(False)
        else:
            layer.set_adapter(adapter, inference_mode=True)
    choose_copies(model, adapter, trained=False)
    try:
        yield
    finally:
        model.train(training)
        for layer in layers:
            layer.set_adapter(POLICY)
            layer.enable_adapters(True)
        choose_copies(model, POLICY, trained=True)


def has_adapters(model: nn.Module) -> bool:
    """Whether a model has adapters."""
    return hasattr(model, "peft_config")


def _lora_config(settings: LoraSettings, base: str) -> LoraConfig:
    from peft import LoraConfig

    chosen = {name: getattr(settings, name) or value for name, value in LoraSettings.DEFAULTS.items()}
    named = isinstance(settings.targets, str) and settings.targets != ALL_LINEAR
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=int(chosen["rank"]),
        lora_alpha=chosen["alpha"],
        lora_dropout=settings.dropout,
        # peft takes a string for a regular expression
        target_modules=[settings.targets] if named else settings.targets,
        base_model_name_or_path=base,
    )


def _load(
    model: PreTrainedModel, folder: str, name: str, dtype: torch.dtype, *, base: str | None = None,
    settings: LoraSettings | None = None,
) -> None:  # fmt: skip
    """Put a saved adapter on a model; with `settings` it is trained, on `base`."""
    from peft import set_peft_model_state_dict

    field = "reference.adapter_path" if settings is None else "model.adapter_path"
    config = adapter_settings(folder, field)
    changes: dict[str, Any] = {"lora_dropout": 0.0, "inference_mode": True}
    if settings is not None:
        for ours, theirs in (("rank", config.r), ("alpha", config.lora_alpha)):
            if getattr(settings, ours) not in (None, theirs):
                raise UserError(
                    f"lora.{ours} is {getattr(settings, ours)}, but the adapter {folder} has {theirs}; leave it out"
                )
        changes = {"lora_dropout": settings.dropout, "inference_mode": False, "base_model_name_or_path": base}
    weights = adapter_weights(folder, field)
    check_vocabulary(model, weights, folder, field, copies=bool(config.modules_to_save))
    _inject(model, dataclasses.replace(config, **changes), name, dtype, field)
    try:
        result: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    except RuntimeError as error:
        raise UserError(f"{field} {folder} does not fit the model: {str(error).splitlines()[-1].strip()}") from None
    missing = [key for key in result.missing_keys if f".{name}." in key]
    if missing or result.unexpected_keys:
        odd = (missing or result.unexpected_keys)[0]
        raise UserError(f"{field} {folder} does not fit the model: {odd} is {'missing' if missing else 'not in it'}")


def _inject(model: PreTrainedModel, config: LoraConfig, name: str, dtype: torch.dtype, field: str) -> None:
    from peft import inject_adapter_in_model

    config = dataclasses.replace(config, exclude_modules=_excluded(model, config.exclude_modules))
    with warnings.catch_warnings():
        # Conv1D (GPT-2) stores its matrix transposed: peft sees that, corrects the setting and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        # Copies of a head and of an embedding that the model ties are two: as peft loads them.
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        # peft looks for the patterns that it made itself among modules, and they are of parameters
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        try:
            # Where weights are sharded, peft gathers those that it starts from (DoRA's norms), if it is told.
            sharded = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
            with stand_ins(model), announced(_STAGE_3 if sharded else None):
                inject_adapter_in_model(config, model, adapter_name=name)
        except ValueError as error:
            if "lora_dropout" in str(error):
                raise UserError(
                    f"lora.dropout: {config.lora_dropout} cannot be with adapters on experts, which peft adds to their "
                    "weights; leave it out, or name other modules with lora.targets ([q_proj, v_proj])"
                ) from None
            raise UserError(f"{field}: {error}") from None
    check_copies(model, field)
    for end in (model.get_output_embeddings(), model.get_input_embeddings()):
        if any(True for _ in _layers(end)):
            raise UserError(f"{field}: the LM head and the embeddings cannot be adapted; name other modules")
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            parameter.data = parameter.data.to(dtype)


def _excluded(model: PreTrainedModel, own: str | list[str] | None) -> str | list[str] | None:
    """What is no part of the text decoder, and what an adapter itself leaves out."""
    outside = outside_text(model)
    if outside is None or not own:
        return outside or own
    if not isinstance(own, str):
        own = rf"(.*\.)?({'|'.join(map(re.escape, own))})"
    return f"{outside}|{own}"


def _layers(model: nn.Module) -> Iterator[BaseTunerLayer]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return (module for module in model.modules() if isinstance(module, BaseTunerLayer))

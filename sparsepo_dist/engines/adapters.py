"""LoRA and QLoRA: adapters on the policy, and the reference as the same model with them off. peft does the work."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.errors import UserError

POLICY, REFERENCE = "policy", "reference"
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
KEY_PREFIX = "base_model.model."  # peft's file format


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
        _load(model, reference, REFERENCE, dtype, trainable=False)
    if start is not None:
        _load(model, start, POLICY, dtype, trainable=True, settings=settings)
    else:
        _inject(model, _lora_config(settings, base), POLICY, dtype)
    for layer in _layers(model):
        layer.set_adapter(POLICY)
    return None if reference is None else REFERENCE


def add_frozen_adapter(model: PreTrainedModel, folder: str, dtype: torch.dtype) -> None:
    """Put an adapter on a model that is not trained. Raises UserError where it does not fit."""
    _load(model, folder, REFERENCE, dtype, trainable=False)
    model.requires_grad_(False)


@contextmanager
def as_reference(model: PreTrainedModel, adapter: str | None) -> Iterator[None]:
    """The reference inside the policy: adapters off, or the named one in place of the policy's; no dropout."""
    training, layers = model.training, list(_layers(model))
    model.eval()
    for layer in layers:
        if adapter is None:
            layer.enable_adapters(False)
        else:
            layer.set_adapter(adapter, inference_mode=True)
    try:
        yield
    finally:
        model.train(training)
        for layer in layers:
            layer.set_adapter(POLICY)
            layer.enable_adapters(True)


def save_adapter(model: PreTrainedModel, state: dict[str, Tensor], folder: Path) -> None:
    """Write the policy's adapter in peft's format; `state` holds its parameters, whole."""
    weights = get_peft_model_state_dict(model, state_dict=state, adapter_name=POLICY, save_embedding_layers=False)
    save_file(
        {KEY_PREFIX + key: value.contiguous() for key, value in weights.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    peft_config: Any = model.peft_config
    saved = dataclasses.replace(peft_config[POLICY], inference_mode=True)
    saved.save_pretrained(folder)


def has_adapters(model: nn.Module) -> bool:
    """Whether a model has adapters."""
    return any(True for _ in _layers(model))


def adapter_settings(folder: str, field: str) -> LoraConfig:
    """The settings of a saved adapter.

    Raises:
        UserError: the folder holds no LoRA adapter with weights as safetensors.
    """
    path = Path(folder)
    if not (path / SETTINGS).is_file():
        raise UserError(f"{field} {folder}: no {SETTINGS} is there; a peft adapter's folder is wanted")
    if not (path / WEIGHTS).is_file():
        raise UserError(f"{field} {folder}: no {WEIGHTS} is there (pickled weights are not read; save as safetensors)")
    try:
        values = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
        kind = values.get("peft_type")
        if kind != "LORA":
            raise UserError(f"{field} {folder}: it is a {kind} adapter; only LoRA is supported")
        return LoraConfig.from_pretrained(folder)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{field} {folder}: {SETTINGS} cannot be read: {error}") from None


def is_adapter_folder(path: str) -> bool:
    """Whether a path is a peft adapter's folder rather than a model's."""
    return (Path(path) / SETTINGS).is_file() and not (Path(path) / "config.json").is_file()


def _lora_config(settings: LoraSettings, base: str) -> LoraConfig:
    chosen = {name: getattr(settings, name) or value for name, value in LoraSettings.DEFAULTS.items()}
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=int(chosen["rank"]),
        lora_alpha=chosen["alpha"],
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        base_model_name_or_path=base,
    )


def _load(
    model: PreTrainedModel, folder: str, name: str, dtype: torch.dtype, *, trainable: bool,
    settings: LoraSettings | None = None,
) -> None:  # fmt: skip
    field = "model.adapter_path" if trainable else "reference.adapter_path"
    config = adapter_settings(folder, field)
    if settings is not None:
        for ours, theirs in (("rank", config.r), ("alpha", config.lora_alpha)):
            if getattr(settings, ours) not in (None, theirs):
                raise UserError(
                    f"lora.{ours} is {getattr(settings, ours)}, but the adapter {folder} has {theirs}; leave it out"
                )
        config = dataclasses.replace(config, lora_dropout=settings.dropout, inference_mode=False)
    else:
        config = dataclasses.replace(config, lora_dropout=0.0, inference_mode=True)
    _inject(model, config, name, dtype)
    state = {key.removeprefix(KEY_PREFIX): value for key, value in load_file(Path(folder) / WEIGHTS).items()}
    try:
        result: Any = set_peft_model_state_dict(model, state, adapter_name=name)
    except RuntimeError as error:
        raise UserError(f"{field} {folder} does not fit the model: {str(error).splitlines()[-1].strip()}") from None
    missing = [key for key in result.missing_keys if f".{name}." in key]
    if missing or result.unexpected_keys:
        odd = (missing or result.unexpected_keys)[0]
        raise UserError(f"{field} {folder} does not fit the model: {odd} is {'missing' if missing else 'not in it'}")


def _inject(model: PreTrainedModel, config: LoraConfig, name: str, dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        # Conv1D (GPT-2) stores its matrix transposed: peft sees that, corrects the setting and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        try:
            inject_adapter_in_model(config, model, adapter_name=name)
        except ValueError as error:
            raise UserError(f"lora.targets: {error}") from None
    for end in (model.get_output_embeddings(), model.get_input_embeddings()):
        if any(isinstance(module, BaseTunerLayer) for module in end.modules()):
            raise UserError("lora.targets: the LM head and the embeddings cannot be adapted; name other modules")
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            parameter.data = parameter.data.to(dtype)


def _layers(model: nn.Module) -> Iterator[BaseTunerLayer]:
    return (module for module in model.modules() if isinstance(module, BaseTunerLayer))

"""Adapters on disk, in peft's format: what is read of a given one, and what is written of a trained one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from sparsepo_dist.disk import follow_umask
from sparsepo_dist.errors import UserError
from sparsepo_dist.files import read_json

if TYPE_CHECKING:
    from peft import LoraConfig

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
KEY_PREFIX = "base_model.model."
# They train or rewrite parts of the model below, which would then not be the reference with the adapter off.
_CHANGES_THE_MODEL = ("layer_replication", "trainable_token_indices", "kasa_config", "alora_invocation_tokens")
_PLAIN_STARTS = (True, False, "gaussian")


def is_adapter_folder(path: str) -> bool:
    """Whether a path is a peft adapter's folder rather than a model's, or both at once."""
    return (Path(path) / SETTINGS).is_file()


def tokenizer_source(model: str, adapter: str | Path | None) -> str:
    """Where the tokenizer of a model is: beside its adapter, whose template may be another, or the model's own."""
    beside = adapter is not None and (Path(adapter) / "tokenizer_config.json").is_file()
    return str(adapter) if beside else model


def adapter_settings(folder: str, field: str) -> LoraConfig:
    """The settings of a saved adapter; `field` is the recipe's name for it.

    Raises:
        UserError: the folder holds no plain LoRA adapter with weights as safetensors.
    """
    from peft import LoraConfig

    path = Path(folder)
    if not (path / SETTINGS).is_file():
        raise UserError(f"{field} {folder}: no {SETTINGS} is there; a peft adapter's folder is wanted")
    if not (path / WEIGHTS).is_file():
        raise UserError(f"{field} {folder}: no {WEIGHTS} is there (pickled weights are not read; save as safetensors)")
    try:
        kind = read_json(path / SETTINGS).get("peft_type")
        config = LoraConfig.from_pretrained(folder) if kind == "LORA" else None
    except (OSError, ValueError, TypeError, AttributeError, KeyError, ImportError) as error:
        raise UserError(f"{field} {folder}: {SETTINGS} cannot be read: {error}") from None
    if config is None:
        raise UserError(f"{field} {folder}: it is a {kind} adapter; only LoRA is supported")
    for name, kinds in (("r", int), ("lora_alpha", int | float), ("target_modules", str | list | set)):
        value = getattr(config, name)
        if not isinstance(value, kinds) or isinstance(value, bool) or not value:
            raise UserError(f"{field} {folder}: {SETTINGS} has {name} {value!r}, which cannot be")
    odd = [name for name in _CHANGES_THE_MODEL if getattr(config, name, None)]
    odd += ["bias"] if config.bias != "none" else []
    odd += ["init_lora_weights"] if config.init_lora_weights not in _PLAIN_STARTS else []
    if odd == ["init_lora_weights"]:
        raise UserError(
            f"{field} {folder}: init_lora_weights is {config.init_lora_weights!r}, so that it holds a part of the "
            "model's own weights, which the model it was trained on had lost. Save it anew with peft, as plain LoRA "
            "(save_pretrained(FOLDER, path_initial_model_for_weight_conversion=...)), or start from a model that it "
            "was merged into"
        )
    if odd:
        raise UserError(
            f"{field} {folder}: {odd[0]} is {getattr(config, odd[0])!r}, so that it changes the model itself; merge it "
            "into its model with peft and start from the result, or use a plain LoRA adapter"
        )
    return config


def other_base(adapter: str, named: str | None, model: str, field: str) -> str | None:
    """A sentence if an adapter was made for another model than the one it is put on; else None.

    Args:
        named: the model that its settings name.
        field: what the user called the adapter.
    """
    if not named or named == model or Path(named).resolve() == Path(model).resolve():
        return None
    return (
        f"{field} {adapter}: it was made for the model {named}, and is put on {model}; unless the two have the same "
        "weights, that is another model than the one that was tuned"
    )


def adapter_weights(folder: str, field: str) -> dict[str, Tensor]:
    """A saved adapter's tensors on the CPU, [rank, inputs] and [outputs, rank], under their names in the model.

    Raises:
        UserError: the file is damaged, or holds numbers that are not finite.
    """
    try:
        tensors = load_file(Path(folder) / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{field} {folder}: {WEIGHTS} cannot be read: {error}") from None
    for key, value in tensors.items():
        if not value.isfinite().all():
            raise UserError(
                f"{field} {folder}: {key} holds NaN or Inf; such an adapter cannot be computed with. Use an earlier "
                "checkpoint of it, or fetch it again"
            )
    return {key.removeprefix(KEY_PREFIX): value for key, value in tensors.items()}


def save_adapter(model: PreTrainedModel, name: str, state: dict[str, Tensor], folder: Path) -> None:
    """Write an adapter of a model; `state` holds its parameters, whole, under their names in the model."""
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(model, state_dict=state, adapter_name=name, save_embedding_layers=False)
    save_file(
        {KEY_PREFIX + key: value.contiguous() for key, value in weights.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    follow_umask([folder / WEIGHTS])
    peft_config: Any = model.peft_config
    dataclasses.replace(peft_config[name], inference_mode=True).save_pretrained(folder)

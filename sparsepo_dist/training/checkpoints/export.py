"""A model folder from a checkpoint of a run, as the run itself would have written it to final/ at that step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from sparsepo_dist.data.tokens.template import template_text
from sparsepo_dist.disk import put_in_place, remove, unwritable
from sparsepo_dist.engines.adapters.lora import add_adapters, has_adapters
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_generator
from sparsepo_dist.engines.decoder.structure import empty_model, quiet
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.engines.deepspeed.trained_weights import trained_weights
from sparsepo_dist.engines.saving import saved_names, write_model, write_trained
from sparsepo_dist.errors import UserError, unreadable
from sparsepo_dist.training.checkpoints.store import Checkpoint, open_checkpoint

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def export_checkpoint(folder: Path, output: Path, *, fp32: bool = False, trust_remote_code: bool = False) -> Path:
    """Write a checkpoint's model in transformers format, or its adapter in peft's, with the tokenizer and
    trained.json; on one CPU.

    Its files are held against their checksums first. The output is written aside and renamed.

    Args:
        folder: checkpoints/step-N of a run, from any number of ranks and any ZeRO stage.
        output: folder to write; must be empty or absent.
        fp32: keep float32 masters as they are instead of rounding them to the run's dtype, in which it computes. ZeRO 0
            keeps none that could be found again.
        trust_remote_code: let the model run its own Python code.

    Raises:
        UserError: it is no checkpoint, or damaged; its model or chat template cannot be found; the output holds
            something, or cannot be written.
    """
    checkpoint = open_checkpoint(folder, field="export")
    _check_output(output)
    damage = checkpoint.damage()
    if damage is not None:
        raise UserError(f"export: the checkpoint {folder} is damaged: {damage}; name another")
    config = _configuration(checkpoint)
    path, run_dtype = config["model"]["path"], _DTYPES[config["training"]["precision"]]
    dtype = torch.float32 if fp32 else run_dtype
    model_config = load_config(path, field="export: the run's model", trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(path, field="export: the run's model", trust_remote_code=trust_remote_code)
    if config["data"]["chat_template"] is not None:
        tokenizer.chat_template = template_text(config["data"]["chat_template"])
    with quiet():
        model = _skeleton(config, model_config, dtype, trust_remote_code=trust_remote_code)
    frozen = set() if has_adapters(model) else {name for name, p in model.named_parameters() if not p.requires_grad}
    weights = trained_weights(folder, [name for name in saved_names(model) if name not in frozen], dtype)
    if frozen:  # checkpoints leave them out
        start = load_generator(path, dtype=dtype, field="export: the run's model", trust_remote_code=trust_remote_code)
        weights |= {name: p.detach() for name, p in start.named_parameters() if name in frozen}
    unfinished = output.with_name(f".writing-{output.name}")
    try:
        remove(unfinished)
        with quiet():
            write_model(model, tokenizer, weights, unfinished)
        origin = {"run": checkpoint.folder.resolve().parents[1].name, "step": checkpoint.step, "config": config}
        write_trained(origin, unfinished)
        put_in_place(unfinished, output)
    except (OSError, SafetensorError) as error:
        raise UserError(f"export: {output} cannot be written: {error}") from None
    return output


def _check_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"export: {output} is not empty; name another folder")
    reason = unwritable(output)
    if reason is not None:
        raise UserError(f"export: {output} cannot be written: {reason}; name another folder")


def _configuration(checkpoint: Checkpoint) -> Mapping[str, Any]:
    try:
        config: Mapping[str, Any] = checkpoint.state()["config"]
        if config["training"]["precision"] not in _DTYPES or not isinstance(config["model"]["path"], str):
            raise ValueError("no model and precision")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"export: {checkpoint.folder} does not say what it was trained from ({error!r})") from None
    return config


def _skeleton(
    config: Mapping[str, Any], model_config: PretrainedConfig, dtype: torch.dtype, *, trust_remote_code: bool
) -> PreTrainedModel:
    """The policy without weights: what is saved beside them follows from it."""
    path = config["model"]["path"]
    model = empty_model(model_config, dtype, config["data"]["layout"], trust_remote_code=trust_remote_code)
    try:
        model.generation_config = GenerationConfig.from_pretrained(path)
    except OSError:
        pass  # as when it is loaded: without one it generates by its configuration
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"export: the run's model {path}: its generation_config.json: {unreadable(error)}") from None
    if config["model"]["adapter"] != "none":
        settings = LoraSettings(**config["lora"])
        with torch.device("meta"):
            add_adapters(
                model, settings, dtype, base=path, start=config["model"]["adapter_path"], reference=None
            )  # fmt: skip
    return model

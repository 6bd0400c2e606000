"""Models without weights: modules and shapes on the meta device, where a model of any size costs next to nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.adapters.lora import add_adapters
from sparsepo_dist.engines.attention.choice import AttentionSetting
from sparsepo_dist.engines.composite import auto_class, freeze_other_parts
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.decoder.backbone import backbone
from sparsepo_dist.engines.decoder.loading import attention_for, check_complete
from sparsepo_dist.engines.layouts.preparation import prepare
from sparsepo_dist.errors import UserError, unreadable


def unloaded_model(
    config: PretrainedConfig, dtype: torch.dtype, layout: Layout, *, trust_remote_code: bool,
    attention: AttentionSetting | None = None,
) -> PreTrainedModel:  # fmt: skip
    """The model that a configuration describes, with random weights and the attention that a layout gets.

    Raises:
        UserError: the attention that was asked for cannot be.
    """
    model: PreTrainedModel = auto_class(config).from_config(
        config,
        dtype=dtype,
        attn_implementation=attention_for(config, layout, dtype, attention),
        trust_remote_code=trust_remote_code,
    )
    freeze_other_parts(model, backbone(model))
    prepare(backbone(model), layout)
    return model


def empty_model(
    config: PretrainedConfig, dtype: torch.dtype, layout: Layout, *, trust_remote_code: bool,
    attention: AttentionSetting | None = None,
) -> PreTrainedModel:  # fmt: skip
    """As `unloaded_model`, without weights.

    Raises:
        UserError: the attention that was asked for cannot be.
    """
    with torch.device("meta"):
        return unloaded_model(config, dtype, layout, trust_remote_code=trust_remote_code, attention=attention)


def adapt(
    model: PreTrainedModel, settings: LoraSettings, dtype: torch.dtype, start: str | None = None
) -> None:  # fmt: skip
    """Put an adapter on a model and freeze the rest, as training does; `start` is the folder of one to start from.

    Raises:
        UserError: targets that fit nothing, or a start that does not fit.
    """
    with quiet(), torch.device("meta"):
        add_adapters(model, settings, dtype, base="", start=start, reference=None)


def checked_structure(
    path: str, config: PretrainedConfig, dtype: torch.dtype, layout: Layout, *, field: str, trust_remote_code: bool
) -> PreTrainedModel:
    """As `empty_model`, after holding a folder's weights against it: of the files only the headers are read.

    A hub's models are not looked into: that would fetch them.

    Raises:
        UserError: weights are missing, damaged or of other shapes.
    """
    if not Path(path).is_dir():
        return empty_model(config, dtype, layout, trust_remote_code=trust_remote_code)
    model: PreTrainedModel
    found: dict[str, Any]
    try:
        with quiet():
            model, found = auto_class(config).from_pretrained(
                path,
                output_loading_info=True,
                config=config,
                dtype=dtype,
                attn_implementation=attention_for(config, layout, dtype),
                trust_remote_code=trust_remote_code,
                device_map="meta",
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # whatever the readers of the file formats raise
        raise UserError(f"{field} {path}: its weights cannot be read: {unreadable(error)}; fetch it again") from None
    if found["mismatched_keys"]:
        name, stored, wanted = min(found["mismatched_keys"], key=str)
        raise UserError(
            f"{field} {path}: {name} is stored as {list(stored)}, but config.json asks for {list(wanted)}; one of the "
            "two is another model's"
        )
    check_complete(path, found)
    prepare(backbone(model), layout)
    return model


def make_fake(model: PreTrainedModel) -> None:
    """Within torch's fake mode: parameters and buffers on a device that operators know, still without data."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad)
            if fake.requires_grad:
                fake.register_post_accumulate_grad_hook(_drop_gradient)
            setattr(module, name, fake)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the loading report and its bar, and torch's remarks on what the meta device does not do."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()

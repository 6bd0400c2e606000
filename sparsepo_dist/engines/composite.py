"""Composite models, whose configuration has a text part beside others (vision, audio): the part that is trained, found.

Their text decoder is trained on token ids alone. The other parts are loaded, kept frozen and saved with it.
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from sparsepo_dist.errors import UserError, unreadable

log = logging.getLogger(__name__)

_PROCESSOR_FILES = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json",
)  # fmt: skip
"""What transformers' processors are made from, besides the tokenizer's files."""


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a configuration that describes the text decoder; all of it where there are no parts."""
    return config.get_text_config(decoder=True)


def is_composite(config: PretrainedConfig) -> bool:
    """Whether a configuration has parts besides the text decoder's."""
    return text_config(config) is not config


def auto_class(config: PretrainedConfig) -> Any:
    """The auto class that loads a model whole; AutoModelForCausalLM would leave out the vision of some composites."""
    if is_composite(config) and AutoModelForMultimodalLM._model_mapping.get(type(config), None) is not None:
        return AutoModelForMultimodalLM
    return AutoModelForCausalLM


def model_class(config: PretrainedConfig) -> Any:
    """The class of the whole model; None where transformers has none."""
    return auto_class(config)._model_mapping.get(type(config), None)


def decoder_class(config: PretrainedConfig) -> type:
    """The class that decides a model's attention: of the text decoder in a composite, else of the whole. A hub's own
    class is not known before its code has run."""
    of_text = AutoModel._model_mapping.get(type(text_config(config)), None) if is_composite(config) else None
    found: type = of_text or model_class(config) or AutoModelForCausalLM
    return found


def text_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The module of a composite that turns token ids into final hidden states.

    Raises:
        UserError: none is recognised.
    """
    decoder = model.get_decoder()
    if getattr(decoder, "lm_head", None) is not None:  # some composites hold a whole causal language model
        decoder = next((child for child in decoder.children() if isinstance(child, PreTrainedModel)), None)
    known = isinstance(decoder, PreTrainedModel) and decoder is not model and model.get_output_embeddings() is not None
    if not known or decoder.config is not text_config(model.config):
        raise UserError(
            f"{type(model).__name__}: its text decoder, which would be trained, was not recognised among its parts; it "
            "is not supported"
        )
    found: PreTrainedModel = decoder
    return found


def freeze_other_parts(model: PreTrainedModel, decoder: PreTrainedModel) -> None:
    """Leave gradients to the text decoder and the head alone; nothing changes where a model has no other parts."""
    if is_composite(model.config):
        model.requires_grad_(False)
        decoder.requires_grad_(True)
        model.get_output_embeddings().requires_grad_(True)
    for name in _parts_inside(decoder):
        decoder.get_submodule(name).requires_grad_(False)


def outside_text(model: PreTrainedModel) -> str | None:
    """A regular expression of the names of modules that are no part of the text decoder; None where there are none but
    the head."""
    composite = is_composite(model.config)
    decoder = text_decoder(model) if composite else model.base_model
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    within = re.escape(f"{prefix}." if prefix else "")
    patterns = [rf"(?!{within}).*"] if composite else []
    patterns += [rf"{within}{re.escape(name)}\..*" for name in _parts_inside(decoder)]
    return "|".join(patterns) or None


def _parts_inside(decoder: PreTrainedModel) -> list[str]:
    """Names of a decoder's children that hold models of another kind: some keep their vision there (Phi-4)."""
    return [
        name
        for name, child in decoder.named_children()
        if any(isinstance(p, PreTrainedModel) and type(p.config) is not type(decoder.config) for p in child.modules())
    ]


def copy_processor(source: str, folder: Path) -> None:
    """Put the files of a composite's processor beside its saved weights, as far as its source has them.

    Args:
        source: the model's folder or hub id.
        folder: where it is saved.

    Raises:
        OSError: one cannot be written.
    """
    for name in _PROCESSOR_FILES:
        try:
            file = cached_file(
                source, name, _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )  # fmt: skip
        except Exception as error:  # whatever a hub raises: the weights must not be lost for it
            log.warning("%s of %s is not put beside the model: %s", name, source, unreadable(error))
            continue
        if file is not None and not (folder / name).exists():
            shutil.copyfile(file, folder / name)

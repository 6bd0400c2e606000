"""A decoder's configuration, checked for what the fused head and the layouts rely on."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, PretrainedConfig

from sparsepo_dist.engines.attention.alibi import has_alibi
from sparsepo_dist.engines.attention.inputs import WITHOUT_ATTENTION
from sparsepo_dist.engines.composite import decoder_class, model_class, text_config
from sparsepo_dist.errors import UserError, unreadable

# What transformers raises over files that are damaged, or hold what it did not expect.
UNREADABLE = (
    OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RecursionError, StrictDataclassError,
)  # fmt: skip


def load_config(path: str, *, field: str = "model.path", trust_remote_code: bool = False) -> PretrainedConfig:
    """A model's configuration, checked for what the fused head and the layouts rely on; `field` names it in messages.

    Raises:
        UserError: it cannot be found, or is no decoder.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except UNREADABLE as error:
        check_own_code(error, f"{field} {path}", trust_remote_code=trust_remote_code)
        here = "the folder holds no model" if Path(path).is_dir() else "neither a folder here nor found on a hub"
        raise UserError(f"{field} {path}: {here} ({unreadable(error, 200)})") from None
    whole = model_class(config)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{field} {path}: a {config.model_type} model is an encoder-decoder, not a causal language model"
        )
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        raise UserError(f"{field} {path}: a {config.model_type} model is an encoder, not a causal language model")
    if whole is None and not (trust_remote_code and getattr(config, "auto_map", None)):
        raise UserError(f"{field} {path}: a {config.model_type} model is not a causal language model")
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(
            f"{field} {path}: the model is stored quantised, which cannot be trained or compared with here; name its "
            "original (--model.adapter qlora puts that into 4 bits by itself)"
        )
    takes: Any = decoder_class(config)
    takes_positions = whole is None or "position_ids" in inspect.signature(takes.forward).parameters
    if not takes_positions and not has_alibi(config) and config.model_type not in WITHOUT_ATTENTION:
        raise UserError(f"{field} {path}: {config.model_type} takes no position_ids, which packing needs")
    if getattr(config, "rescale_every", 0):
        raise UserError(
            f"{field} {path}: a {config.model_type} model divides its weights by powers of 2 in evaluation, every "
            f"{config.rescale_every} layers; set rescale_every to 0 in its config.json, which computes the same"
        )
    return config


def check_window(config: PretrainedConfig, max_length: int, field: str = "model.path") -> None:
    """Refuse lengths beyond a model's context window: the positions that it has. Windows of its attention are no limit.

    Raises:
        UserError: max_length exceeds it.
    """
    text = text_config(config)
    name = "max_seq_len" if text.model_type == "mpt" else "max_position_embeddings"
    limit = getattr(text, name, None)
    if limit and max_length > limit:
        raise UserError(
            f"data.max_length {max_length} exceeds the model's position range of {limit} ({field}); lower it"
        )


def check_own_code(error: Exception, name: str, *, trust_remote_code: bool) -> None:
    if "custom code" in str(error) and not trust_remote_code:
        raise UserError(
            f"{name}: it brings Python code of its own, which is not run unasked; read it, then say "
            "--model.trust_remote_code true"
        ) from None

"""An adapter and its model as one full model."""

from __future__ import annotations

import logging
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from transformers import PreTrainedModel

from sparsepo_dist.disk import follow_umask
from sparsepo_dist.engines.adapters.files import (
    KEY_PREFIX,
    adapter_settings,
    adapter_weights,
    other_base,
    tokenizer_source,
)
from sparsepo_dist.engines.adapters.vocabulary import brought_rows, resize_for
from sparsepo_dist.engines.composite import copy_processor, outside_text
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_generator
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.errors import UserError

log = logging.getLogger(__name__)


def merge_adapter(adapter: Path, output: Path, base: str | None = None) -> Path:
    """Write base + adapter to a folder, in the base's own dtype and unquantised; on one CPU, without DeepSpeed.

    Args:
        adapter: folder of a peft adapter, such as a run's final/.
        output: folder to write; must be empty or absent.
        base: the model it belongs on, where it is no longer where the adapter says.

    Raises:
        UserError: one of them cannot be read, they do not fit, or the output holds something.
    """
    settings = adapter_settings(str(adapter), "adapter")
    path = base or settings.base_model_name_or_path
    if not path:
        raise UserError(f"{adapter}: does not say which model it belongs on; name it with --base")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not empty; name another folder")
    load_config(path, field="base")
    tokenizer = load_tokenizer(tokenizer_source(path, adapter), field="base")
    warning = other_base(str(adapter), settings.base_model_name_or_path, path, "adapter")
    if warning is not None:
        log.warning("%s", warning)
    both = with_adapter(load_generator(path, dtype="auto", field="base"), adapter, path)
    try:
        merged = both.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{adapter} cannot be merged into {path}: {_last_line(error)}") from None
    try:
        merged.save_pretrained(output)
        follow_umask(output.glob("*.safetensors"))
        tokenizer.save_pretrained(output)
        if outside_text(merged) is not None:
            copy_processor(path, output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}") from None
    return output


def with_adapter(model: PreTrainedModel, adapter: Path, base: str) -> PeftModel:
    """A loaded model with an adapter on it, its vocabulary made the adapter's; `base` names the model in messages.

    Raises:
        UserError: the adapter cannot be read, or does not belong on the model.
    """
    settings = adapter_settings(str(adapter), "adapter")
    weights = adapter_weights(str(adapter), "adapter")
    resize_for(model, weights)
    # Unsaid, peft looks for the base on a hub to find out.
    replaced = brought_rows(model, weights) is not None and not settings.modules_to_save
    try:
        both = PeftModel.from_pretrained(model, adapter)
        # peft only warns of tensors that have no place in the model, and draws those that are missing.
        own = get_peft_model_state_dict(both, save_embedding_layers=replaced)
        odd = own.keys() ^ {KEY_PREFIX + key for key in weights}
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{adapter} does not belong on {base}: {_last_line(error)}") from None
    if odd:
        raise UserError(f"{adapter} does not belong on {base}: {sorted(odd)[0]} is in one of them only")
    return both


def _last_line(error: Exception) -> str:
    return str(error).splitlines()[-1].strip()

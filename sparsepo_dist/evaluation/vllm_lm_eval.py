"""lm-eval's model class over vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from sparsepo_dist.engines.adapters.files import tokenizer_source
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.sampling.vllm import max_lora_rank

if TYPE_CHECKING:
    from lm_eval.api.model import LM


def lm_eval_model(
    target: Target,
    *,
    dtype: str,
    batch_size: int | Literal["auto"],
    seed: int,
    trust_remote_code: bool = False,
    chat_template_args: Mapping[str, Any] | None = None,
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
        trust_remote_code=trust_remote_code, batch_size=batch_size, seed=seed,
        chat_template_args=dict(chat_template_args or {}), **adapter,
    )  # fmt: skip

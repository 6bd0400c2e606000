"""Samples of texts' continuations by vLLM."""

from __future__ import annotations

import gc
import importlib.util
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from sparsepo_dist.engines.adapters.files import tokenizer_source
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.engines.deepspeed.ds_config import has_bf16
from sparsepo_dist.errors import RunError, UserError, shortened
from sparsepo_dist.files import read_json
from sparsepo_dist.sampling.responses import Nucleus, Sample
from sparsepo_dist.sampling.sampler import Prompt, Sampler

_SEEDS = 2**31
# The only values that vLLM's max_lora_rank has.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VllmSampler(Sampler):
    """In bf16 where the GPU multiplies it.

    Args:
        model: folder or hub id.
        adapter: folder of a LoRA adapter on it; its tokenizer is used where it has one.

    Raises:
        UserError: vLLM is not installed; model, tokenizer or adapter cannot be used.
        RunError: vLLM fails to load them.
    """

    def __init__(self, model: str | Path, adapter: str | Path | None = None) -> None:
        check_vllm()
        import vllm
        from vllm.lora.request import LoRARequest

        config = load_config(str(model), field="model")
        positions = getattr(text_config(config), "max_position_embeddings", None)
        source = tokenizer_source(str(model), adapter)
        tokenizer = load_tokenizer(source, field="model")
        super().__init__(str(adapter or model), tokenizer, positions, _own_ends(str(model), config))
        options: dict[str, Any] = {}
        self._adapter = None
        if adapter is not None:
            options = {"enable_lora": True, "max_lora_rank": max_lora_rank(str(adapter))}
            self._adapter = LoRARequest("adapter", 1, str(adapter))
        dtype = "bfloat16" if torch.cuda.is_available() and has_bf16(torch.device("cuda")) else "float32"
        self._vllm = vllm
        gc.collect()  # an earlier one's engine, which takes nearly all of the GPU, may still wait for this
        torch.cuda.empty_cache()
        try:
            self._model = vllm.LLM(model=str(model), tokenizer=source, dtype=dtype, **options)
        except (RuntimeError, ValueError, OSError) as error:
            raise RunError(f"vLLM cannot load {self._name}: {shortened(str(error), 300)}") from error

    def _draw(
        self, prompts: Sequence[Prompt], count: int, seed: int, settings: Nucleus, batch_size: int, description: str
    ) -> list[Sample]:
        seeds = random.Random(seed)  # one for each prompt: vLLM counts on from it for the prompt's samples
        found = self._model.generate(
            [self._vllm.TokensPrompt(prompt_token_ids=list(prompt.ids)) for prompt in prompts],
            sampling_params=[
                self._vllm.SamplingParams(
                    n=count, temperature=settings.temperature, top_p=settings.top_p,
                    max_tokens=settings.max_new_tokens, seed=seeds.randrange(_SEEDS),
                    stop_token_ids=sorted(self._ends), detokenize=False,
                )
                for _ in prompts
            ],
            lora_request=self._adapter,
        )  # fmt: skip
        return [
            self._ended(self._sample(prompt, list(output.token_ids)), output.finish_reason)
            for prompt, request in zip(prompts, found, strict=True)
            for output in request.outputs
        ]

    def _ended(self, sample: Sample, reason: str | None) -> Sample:
        if reason == "stop" and (not sample.response_ids or sample.response_ids[-1] not in self._ends):
            raise RunError(
                "this vLLM leaves out the token that ends a response, which KL and length need; install another "
                "version, or use --backend transformers"
            )
        return sample


def _own_ends(model: str, config: Any) -> Any:
    """What ends a response by the model's generation settings; where it has none, by its configuration."""
    try:
        return GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        return text_config(config).eos_token_id


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
        UserError: it takes none of such a rank, or the folder holds no adapter that says its own.
    """
    file = Path(adapter) / "adapter_config.json"
    try:
        settings = read_json(file)
        ranks = [settings["r"], *(settings.get("rank_pattern") or {}).values()]
        if any(type(rank) is not int or rank < 1 for rank in ranks):
            raise ValueError(f"it has the ranks {ranks}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--backend vllm: {file} does not say the adapter's rank: {shortened(repr(error), 200)}"
        ) from None
    rank = max(ranks)
    for allowed in _RANKS:
        if rank <= allowed:
            return allowed
    raise UserError(f"--backend vllm: the adapter {adapter} has rank {rank}, and vLLM takes {_RANKS[-1]} at most")

"""Samples of texts' continuations by vLLM, in the form and by the settings that the sampler on transformers has."""

from __future__ import annotations

import gc
import importlib.util
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from sparsepo_dist.engines.adapters.files import tokenizer_source
from sparsepo_dist.engines.deepspeed.ds_config import has_bf16
from sparsepo_dist.engines.loading import load_config, load_tokenizer
from sparsepo_dist.errors import RunError, UserError, shortened
from sparsepo_dist.sampling.generator import Nucleus, Sample, response_ends, text_ids, until_end

_SEEDS = 2**31
# The only values that vLLM's max_lora_rank has.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VllmSampler:
    """A model that vLLM has loaded, in bf16 where the hardware multiplies it; used like `Sampler`, on transformers.

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

        self._name = str(adapter or model)
        config = load_config(str(model), field="model")
        self._positions = getattr(config, "max_position_embeddings", None)
        source = tokenizer_source(str(model), adapter)
        self._tokenizer = load_tokenizer(source, field="model")
        self._ends = response_ends(_own_ends(str(model), config), self._tokenizer)
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

    def sample(
        self,
        prompts: Sequence[str],
        per_prompt: int,
        *,
        seed: int,
        settings: Nucleus,
        batch_size: int = 96,
        description: str,
    ) -> list[Sample]:
        """`per_prompt` continuations of every prompt, in order.

        Args:
            batch_size: of no meaning here: vLLM fills the GPU by itself, and shows its own progress.

        Raises:
            UserError: prompt and response would exceed the model's positions.
            RunError: vLLM leaves out the tokens that end responses.
        """
        ids = text_ids(prompts, self._tokenizer, settings, positions=self._positions, name=self._name)
        seeds = random.Random(seed)  # one for each prompt: vLLM counts on from it for the prompt's samples
        found = self._model.generate(
            [self._vllm.TokensPrompt(prompt_token_ids=list(row)) for row in ids],
            sampling_params=[
                self._vllm.SamplingParams(
                    n=per_prompt, temperature=settings.temperature, top_p=settings.top_p,
                    max_tokens=settings.max_new_tokens, seed=seeds.randrange(_SEEDS),
                    stop_token_ids=sorted(self._ends), detokenize=False,
                )
                for _ in ids
            ],
            lora_request=self._adapter,
        )  # fmt: skip
        return [
            self._sample(prompt, row, output)
            for prompt, row, request in zip(prompts, ids, found, strict=True)
            for output in request.outputs
        ]

    def _sample(self, prompt: str, ids: tuple[int, ...], output: Any) -> Sample:
        response = until_end(list(output.token_ids), self._ends)
        if output.finish_reason == "stop" and (not response or response[-1] not in self._ends):
            raise RunError(
                "this vLLM leaves out the token that ends a response, which KL and length need; install another "
                "version, or use --backend transformers"
            )
        return Sample(prompt, self._tokenizer.decode(response, skip_special_tokens=True), ids, response)


def _own_ends(model: str, config: Any) -> Any:
    """What ends a response by the model's generation settings; where it has none, by its configuration."""
    try:
        return GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        return config.eos_token_id


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

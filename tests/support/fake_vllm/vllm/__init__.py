"""As much of vLLM as is used here, after its public documentation (0.8), on top of transformers.

vLLM itself cannot be installed where tests run. What it refuses is refused here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, TypedDict

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from vllm.lora.request import LoRARequest

BUILT: list[dict[str, Any]] = []
"""Options of every LLM."""


class TokensPrompt(TypedDict):
    """A prompt of token ids."""

    prompt_token_ids: list[int]


@dataclass
class SamplingParams:
    """What is sampled of a prompt."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True

    def __post_init__(self) -> None:
        if self.top_k < -1 or self.top_k == 0:
            raise ValueError(f"top_k must be -1 (disable), or at least 1, got {self.top_k}.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")


class LLM:
    """A model and its tokenizer."""

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        tokenizer_mode: str = "auto",
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        seed: int | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
    ) -> None:
        BUILT.append({"model": model, "dtype": dtype, "enable_lora": enable_lora, "max_lora_rank": max_lora_rank})
        if max_lora_rank not in (8, 16, 32, 64, 128, 256, 320, 512):
            raise ValueError(f"max_lora_rank ({max_lora_rank}) must be one of (8, 16, 32, 64, 128, 256, 320, 512).")
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer or model)
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._rank = max_lora_rank if enable_lora else 0
        self._adapted: Any = None
        length = max_model_len or self._model.config.max_position_embeddings
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))
        torch.manual_seed(seed or 0)

    def generate(
        self,
        prompts: Sequence[TokensPrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams],
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[SimpleNamespace]:
        """A RequestOutput for each prompt, in order, with `n` CompletionOutputs."""
        if not isinstance(sampling_params, Sequence):
            sampling_params = [sampling_params] * len(prompts)
        if len(sampling_params) != len(prompts):
            raise ValueError("The lengths of prompts and sampling_params must be the same.")
        model = self._model if lora_request is None else self._with(lora_request)
        found = []
        for prompt, asked in zip(prompts, sampling_params, strict=True):
            ids = prompt["prompt_token_ids"]
            seeds = [None if asked.seed is None else asked.seed + index for index in range(asked.n)]
            outputs = [self._complete(model, ids, replace(asked, n=1, seed=seed)) for seed in seeds]
            found.append(SimpleNamespace(prompt_token_ids=ids, outputs=outputs))
        return found

    def _with(self, request: LoRARequest) -> Any:
        if self._adapted is None:
            self._adapted = PeftModel.from_pretrained(self._model, request.lora_path).eval()
        if max(config.r for config in self._adapted.peft_config.values()) > self._rank:
            raise ValueError("LoRA rank is greater than max_lora_rank")
        return self._adapted

    @torch.inference_mode()
    def _complete(self, model: Any, ids: list[int], asked: SamplingParams) -> SimpleNamespace:
        if len(ids) >= self.llm_engine.model_config.max_model_len:
            raise ValueError("The decoder prompt is longer than the maximum model length")
        ends = {*(asked.stop_token_ids or []), *(() if asked.ignore_eos else (self._tokenizer.eos_token_id,))}
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        generator = None if asked.seed is None else torch.Generator().manual_seed(asked.seed)
        new: list[int] = []
        text = ""
        while len(new) < (asked.max_tokens or 10**9):
            new.append(_draw(model(torch.tensor([ids + new])).logits[0, -1], asked, generator))
            text = (
                self._tokenizer.decode(new, skip_special_tokens=asked.skip_special_tokens) if asked.detokenize else ""
            )
            if new[-1] in ends:
                return SimpleNamespace(text=text, token_ids=new, finish_reason="stop", stop_reason=None)
            places = [text.index(stop) for stop in stops if stop in text]
            if places:
                return SimpleNamespace(text=text[: min(places)], token_ids=new, finish_reason="stop", stop_reason="")
        return SimpleNamespace(text=text, token_ids=new, finish_reason="length", stop_reason=None)


def _draw(logits: torch.Tensor, asked: SamplingParams, generator: torch.Generator | None) -> int:
    if asked.temperature == 0:
        return int(logits.argmax())
    shares, tokens = (logits / asked.temperature).softmax(-1).sort(descending=True)
    shares = torch.where(shares.cumsum(-1) - shares < asked.top_p, shares, 0.0)
    return int(tokens[torch.multinomial(shares, 1, generator=generator)])

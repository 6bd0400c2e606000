"""Sample continuations of raw-text prompts in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase

from sparsepo_dist.data.tokenize import prompt_ids
from sparsepo_dist.engines.adapters.files import tokenizer_source
from sparsepo_dist.engines.deepspeed.ds_config import has_bf16
from sparsepo_dist.engines.loading import load_generator, load_tokenizer
from sparsepo_dist.engines.merging import with_adapter
from sparsepo_dist.errors import UserError
from sparsepo_dist.sampling.nucleus import NucleusDraw

MAX_NEW_TOKENS, TEMPERATURE, TOP_P = 40, 0.9, 0.95


class Sample(NamedTuple):
    """One continuation."""

    prompt: str
    response: str
    """As generated: prompt + response is the whole text."""
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    """Ends with EOS unless cut at the length limit."""


@dataclass(frozen=True)
class Nucleus:
    """Nucleus sampling; by default as the sentiment experiment samples."""

    temperature: float = TEMPERATURE
    top_p: float = TOP_P
    max_new_tokens: int = MAX_NEW_TOKENS
    max_prompt_length: int = 1024
    """Tokens; a longer prompt loses its beginning."""


class Sampler:
    """A loaded model that continues texts: on the GPU where there is one, in bf16 where the hardware multiplies it.

    Args:
        model: folder or hub id.
        adapter: folder of a peft adapter on it; its tokenizer is used where it has one.

    Raises:
        UserError: model, tokenizer or adapter cannot be loaded.
    """

    def __init__(self, model: str | Path, adapter: str | Path | None = None) -> None:
        self._name = str(adapter or model)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer = _tokenizer(str(model), adapter)
        dtype = torch.bfloat16 if has_bf16(self._device) else torch.float32
        loaded = load_generator(str(model), dtype=dtype, field="model")
        self._ends = response_ends(loaded.generation_config.eos_token_id, self._tokenizer)
        loaded.generation_config = _ends_only(self._ends, self._tokenizer)
        self._positions = getattr(loaded.config, "max_position_embeddings", None)
        on = loaded if adapter is None else with_adapter(loaded, Path(adapter), str(model))
        self._model = on.to(self._device).eval()

    @torch.inference_mode()
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
        """`per_prompt` continuations of every prompt, in order. Deterministic for a seed on one machine.

        Raises:
            UserError: prompt and response would exceed the model's positions.
        """
        ids = text_ids(prompts, self._tokenizer, settings, positions=self._positions, name=self._name)
        wanted = [prompt for prompt in zip(prompts, ids, strict=True) for _ in range(per_prompt)]
        torch.manual_seed(seed)
        samples: list[Sample] = []
        with tqdm(total=len(wanted), desc=description, unit="sample") as bar:
            for start in range(0, len(wanted), batch_size):
                samples += self._continue(wanted[start : start + batch_size], settings)
                bar.update(len(samples) - bar.n)
        return samples

    def _continue(self, batch: Sequence[tuple[str, tuple[int, ...]]], settings: Nucleus) -> Iterator[Sample]:
        inputs, mask = _padded([ids for _, ids in batch], self._tokenizer.pad_token_id)
        output = self._model.generate(
            input_ids=inputs.to(self._device), attention_mask=mask.to(self._device), do_sample=False,
            logits_processor=LogitsProcessorList([NucleusDraw(settings.temperature, settings.top_p)]),
            max_new_tokens=settings.max_new_tokens,
        )  # fmt: skip
        for (text, ids), new in zip(batch, output[:, inputs.shape[1] :].tolist(), strict=True):
            response = until_end(new, self._ends)
            yield Sample(text, self._tokenizer.decode(response, skip_special_tokens=True), ids, response)


def sample(
    model: str | Path, prompts: Sequence[str], per_prompt: int, *, seed: int, batch_size: int = 96, description: str
) -> list[Sample]:
    """Continuations by a model that is loaded for this alone, as the sentiment experiment samples."""
    return Sampler(model).sample(
        prompts, per_prompt, seed=seed, settings=Nucleus(), batch_size=batch_size, description=description
    )


def _tokenizer(model: str, adapter: str | Path | None) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer(tokenizer_source(model, adapter), field="model")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"model {model}: its tokenizer has neither a padding nor an EOS token to pad batches with")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def text_ids(
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    settings: Nucleus,
    *,
    positions: int | None,
    name: str,
) -> list[tuple[int, ...]]:
    """Token ids of prompts, the last ones of those that are longer than the settings allow.

    Raises:
        UserError: prompt and response would exceed the positions of the model, which is called `name`.
    """
    ids = [tuple(prompt_ids(prompt, tokenizer)[-settings.max_prompt_length :]) for prompt in prompts]
    longest, new = max(map(len, ids)), settings.max_new_tokens
    if positions and longest + new > positions:
        raise UserError(
            f"model {name}: a prompt of {longest} tokens and {new} new ones exceed its {positions} positions; lower "
            "--max_prompt_length or --max_new_tokens"
        )
    return ids


def response_ends(own: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end a response: the model's own (of its generation settings) and the tokenizer's EOS."""
    return frozenset(
        token for token in (*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id) if token is not None
    )


def _ends_only(ends: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Where a response ends. A model's own top_k or repetition penalty would bend what is asked for."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id
    )


def _padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """[rows, longest] token ids, padded on the left, and their mask."""
    width = max(map(len, rows))
    ids = torch.tensor([[padding] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def until_end(ids: Sequence[int], ends: frozenset[int]) -> tuple[int, ...]:
    """The tokens up to the first that ends a response, which belongs to it."""
    length = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
    return tuple(ids[:length])

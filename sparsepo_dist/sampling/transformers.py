"""Samples of texts' continuations by transformers, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase

from sparsepo_dist.engines.adapters.files import tokenizer_source
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.decoder.loading import load_generator
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.engines.deepspeed.ds_config import has_bf16
from sparsepo_dist.engines.merging import with_adapter
from sparsepo_dist.errors import UserError, printable
from sparsepo_dist.sampling.nucleus import NucleusDraw
from sparsepo_dist.sampling.responses import Nucleus, Sample
from sparsepo_dist.sampling.sampler import Prompt, Sampler


class TransformersSampler(Sampler):
    """On the GPU where there is one, in bf16 where the hardware multiplies it. Deterministic for a seed on one machine.

    Args:
        model: folder or hub id.
        adapter: folder of a peft adapter on it; its tokenizer is used where it has one.

    Raises:
        UserError: model, tokenizer or adapter cannot be loaded.
    """

    def __init__(self, model: str | Path, adapter: str | Path | None = None) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = _tokenizer(str(model), adapter)
        dtype = torch.bfloat16 if has_bf16(self._device) else torch.float32
        loaded = load_generator(str(model), dtype=dtype, field="model")
        positions = getattr(text_config(loaded.config), "max_position_embeddings", None)
        super().__init__(str(adapter or model), tokenizer, positions, loaded.generation_config.eos_token_id)
        loaded.generation_config = _ends_only(self._ends, tokenizer)
        on = loaded if adapter is None else with_adapter(loaded, Path(adapter), str(model))
        self._model = on.to(self._device).eval()

    @torch.inference_mode()
    def _draw(
        self, prompts: Sequence[Prompt], count: int, seed: int, settings: Nucleus, batch_size: int, description: str
    ) -> list[Sample]:
        wanted = [prompt for prompt in prompts for _ in range(count)]
        torch.manual_seed(seed)
        samples: list[Sample] = []
        with tqdm(total=len(wanted), desc=printable(description), unit="sample") as bar:
            for start in range(0, len(wanted), batch_size):
                samples += self._continue(wanted[start : start + batch_size], settings)
                bar.update(len(samples) - bar.n)
        return samples

    def _continue(self, batch: Sequence[Prompt], settings: Nucleus) -> Iterator[Sample]:
        inputs, mask = _padded([prompt.ids for prompt in batch], self._tokenizer.pad_token_id)
        output = self._model.generate(
            input_ids=inputs.to(self._device), attention_mask=mask.to(self._device), do_sample=False,
            logits_processor=LogitsProcessorList([NucleusDraw(settings.temperature, settings.top_p)]),
            max_new_tokens=settings.max_new_tokens,
        )  # fmt: skip
        return map(self._sample, batch, output[:, inputs.shape[1] :].tolist())


def sample(
    model: str | Path, prompts: Sequence[str], per_prompt: int, *, seed: int, batch_size: int = 96, description: str
) -> list[Sample]:
    """Continuations by a model that is loaded for this alone, as the sentiment experiment samples.

    Raises:
        UserError: the model cannot be loaded, or prompt and response would exceed its positions.
    """
    return TransformersSampler(model).sample(
        prompts, per_prompt, seed=seed, settings=Nucleus(), batch_size=batch_size, description=description
    )


def _tokenizer(model: str, adapter: str | Path | None) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer(tokenizer_source(model, adapter), field="model")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"model {model}: its tokenizer has neither a padding nor an EOS token to pad batches with")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


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

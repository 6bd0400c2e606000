"""Sample continuations of raw-text prompts in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo_dist.engines.ds_config import has_bf16

MAX_NEW_TOKENS, TEMPERATURE, TOP_P = 40, 0.9, 0.95


class Sample(NamedTuple):
    """One continuation."""

    prompt: str
    response: str
    """As generated: prompt + response is the whole text."""
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    """Ends with EOS unless cut at the length limit."""


@torch.inference_mode()
def sample(
    model_path: Path, prompts: Sequence[str], per_prompt: int, *, seed: int, batch_size: int = 96, description: str
) -> list[Sample]:
    """`per_prompt` continuations of every prompt, in order; nucleus sampling with this module's constants.

    Runs on the GPU where there is one, in bf16 where the hardware multiplies it. Deterministic for a seed on one
    machine.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(model_path, padding_side="left")
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype).to(device).eval()
    wanted = [prompt for prompt in prompts for _ in range(per_prompt)]
    torch.manual_seed(seed)
    samples: list[Sample] = []
    with tqdm(total=len(wanted), desc=description, unit="sample") as bar:
        for start in range(0, len(wanted), batch_size):
            texts = wanted[start : start + batch_size]
            inputs = tokenizer(texts, return_tensors="pt", padding=True).to(device)
            output = model.generate(
                **inputs, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, top_k=0, max_new_tokens=MAX_NEW_TOKENS,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
            new = output[:, inputs["input_ids"].shape[1] :].tolist()
            for text, prompt, mask, ids in zip(
                texts, inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), new, strict=True
            ):
                response = _until_eos(ids, tokenizer.eos_token_id)
                shown = tokenizer.decode(response, skip_special_tokens=True)
                real = tuple(token for token, keep in zip(prompt, mask, strict=True) if keep)
                samples.append(Sample(text, shown, real, response))
            bar.update(len(texts))
    return samples


def _until_eos(ids: Sequence[int], eos: int) -> tuple[int, ...]:
    """The tokens up to the first EOS, which belongs to the response."""
    return tuple(ids[: ids.index(eos) + 1]) if eos in ids else tuple(ids)

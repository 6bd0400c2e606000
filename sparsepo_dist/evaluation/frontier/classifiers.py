"""Sequence classifiers of transformers as judges: what they read, and what of their logits is the reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsepo_dist.evaluation.encoders import label_index, load_classifier, longest_input
from sparsepo_dist.sampling.responses import Sample

_BATCH = 32


class Judge(NamedTuple):
    """A classifier's reward."""

    said: str
    """What its numbers are, and of what."""
    measurement: str
    """All that decides them besides the weights, fit for a file name."""
    score: Callable[[Sequence[Sample]], list[float]]


class _Form(NamedTuple):
    """How a prompt and its response are given."""

    said: str
    measurement: str
    encode: Callable[[Sequence[Sample], int], Any]
    """Of samples and the longest input: token ids and their mask, [samples, tokens]."""


class _Meaning(NamedTuple):
    """What the logits say."""

    said: str
    measurement: str
    reward: Callable[[torch.Tensor], torch.Tensor]
    """[samples, labels] to [samples]."""


def judge(path: str, positive: str) -> Judge:
    """A classifier by its folder or hub id.

    One of a single label is a reward model: its logit is the reward, of the conversation in its own template, else of
    prompt and response as the tokenizer's pair. One of several labels reads prompt + response as one text.

    Args:
        positive: the label that counts as positive, in any case, where there are several.

    Raises:
        UserError: it cannot be loaded, or has no such label.
    """
    model, tokenizer = load_classifier(path, field="--scorer")
    tokenizer.truncation_side = "left"  # the response is what is judged
    meaning = _meaning(model, positive, path)
    form = _form(tokenizer) if model.config.num_labels == 1 else _one_text(tokenizer)
    limit = longest_input(tokenizer, model.config)
    at_once = _BATCH if tokenizer.pad_token is not None else 1

    @torch.inference_mode()
    def score(samples: Sequence[Sample]) -> list[float]:
        found: list[float] = []
        for start in tqdm(range(0, len(samples), at_once), desc="scoring", unit="batch"):
            inputs = form.encode(samples[start : start + at_once], limit).to(model.device)
            found += meaning.reward(model(**inputs).logits).tolist()
        return found

    return Judge(f"{meaning.said}, of {form.said}", f"{meaning.measurement}-{form.measurement}", score)


def _meaning(model: PreTrainedModel, positive: str, path: str) -> _Meaning:
    config = model.config
    if config.num_labels == 1:
        return _Meaning("the reward model's logit, which has no bounds", "logit", lambda logits: logits[:, 0])
    wanted = label_index(model, positive, field="--positive_label", path=path)
    name = config.id2label[wanted]
    if config.problem_type == "regression":
        return _Meaning(f"the number {name}, which has no bounds", f"number{wanted}", lambda logits: logits[:, wanted])
    if config.problem_type == "multi_label_classification":
        return _Meaning(f"probability of {name}", f"sigmoid{wanted}", lambda logits: logits[:, wanted].sigmoid())

    def likeliest(logits: torch.Tensor) -> torch.Tensor:
        best, label = logits.softmax(-1).max(-1)
        return torch.where(label == wanted, best, 1 - best)

    said = f"probability p of the likeliest label where that is {name}, else 1 - p"  # the paper's reward
    return _Meaning(said, f"likeliest{wanted}", likeliest)


def _one_text(tokenizer: PreTrainedTokenizerBase) -> _Form:
    def encode(samples: Sequence[Sample], limit: int) -> Any:
        return _padded(tokenizer, limit, [sample.prompt + sample.response for sample in samples])

    return _Form("prompt + response", "text", encode)


def _form(tokenizer: PreTrainedTokenizerBase) -> _Form:
    if tokenizer.chat_template is None:

        def encode_pairs(samples: Sequence[Sample], limit: int) -> Any:
            prompts, responses = [sample.prompt for sample in samples], [sample.response for sample in samples]
            return _padded(tokenizer, limit, prompts, responses)

        return _Form("prompt and response as a pair", "pair", encode_pairs)

    def encode(samples: Sequence[Sample], limit: int) -> Any:
        said = [[("user", sample.prompt), ("assistant", sample.response)] for sample in samples]
        texts = [
            tokenizer.apply_chat_template([{"role": r, "content": c} for r, c in turns], tokenize=False)
            for turns in said
        ]
        return _padded(tokenizer, limit, texts, add_special_tokens=False)  # the template writes them

    return _Form("the conversation in its chat template", "template", encode)


def _padded(tokenizer: PreTrainedTokenizerBase, limit: int, *texts: list[str], add_special_tokens: bool = True) -> Any:
    return tokenizer(
        *texts, return_tensors="pt", padding=tokenizer.pad_token is not None, truncation="longest_first",
        max_length=limit, add_special_tokens=add_special_tokens,
    )  # fmt: skip

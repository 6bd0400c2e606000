"""Sequence classifiers of transformers as judges: what they read, and what of their logits is the reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsepo_dist.contracts import Message, Side
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.evaluation.encoders import label_index, load_classifier, longest_input

_BATCH = 32


class Exchange(Protocol):
    """What was asked and what was answered; samples are such."""

    @property
    def prompt(self) -> Side:
        """Text, or messages."""

    @property
    def response(self) -> str:
        """The answer."""


class Judge(NamedTuple):
    """A classifier's reward."""

    said: str
    """What its numbers are, and of what."""
    measurement: str
    """All that decides them besides the weights, fit for a file name."""
    score: Callable[[Sequence[Exchange]], list[float]]


class _Form(NamedTuple):
    """How a prompt and its response are given."""

    said: str
    measurement: str
    encode: Callable[[Sequence[Exchange], int], Any]
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
        UserError: it cannot be loaded, or has no such label. Its `score`, too: a conversation that its chat template
            refuses, or a reward that is no finite number.
    """
    model, tokenizer = load_classifier(path, field="--scorer")
    tokenizer.truncation_side = "left"  # the response is what is judged
    meaning = _meaning(model, positive, path)
    form = _form(tokenizer) if model.config.num_labels == 1 else _one_text(tokenizer)
    limit = longest_input(tokenizer, model.config)
    at_once = _BATCH if tokenizer.pad_token is not None else 1

    @torch.inference_mode()
    def score(samples: Sequence[Exchange]) -> list[float]:
        found: list[float] = []
        for start in tqdm(range(0, len(samples), at_once), desc="scoring", unit="batch"):
            inputs = form.encode(samples[start : start + at_once], limit).to(model.device)
            found += meaning.reward(model(**inputs).logits).tolist()
        if not all(map(math.isfinite, found)):  # whoever is compared with one would lose without a word
            lost = sum(not math.isfinite(reward) for reward in found)
            raise UserError(f"--scorer {path}: its reward of {lost} of {len(found)} responses is no finite number")
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
    def encode(samples: Sequence[Exchange], limit: int) -> Any:
        return _padded(tokenizer, limit, [_asked(sample) + sample.response for sample in samples])

    return _Form("prompt + response", "text", encode)


def _form(tokenizer: PreTrainedTokenizerBase) -> _Form:
    if tokenizer.chat_template is None:

        def encode_pairs(samples: Sequence[Exchange], limit: int) -> Any:
            prompts, responses = [_asked(sample) for sample in samples], [sample.response for sample in samples]
            return _padded(tokenizer, limit, prompts, responses)

        return _Form("prompt and response as a pair", "pair", encode_pairs)

    def encode(samples: Sequence[Exchange], limit: int) -> Any:
        texts = [_rendered(tokenizer, sample) for sample in samples]
        return _padded(tokenizer, limit, texts, add_special_tokens=False)  # the template writes them

    return _Form("the conversation in its chat template", "template", encode)


def _rendered(tokenizer: PreTrainedTokenizerBase, one: Exchange) -> str:
    try:
        return str(tokenizer.apply_chat_template(_turns(one), tokenize=False))
    except Exception as error:  # templates raise whatever their author chose
        raise UserError(f"--scorer: its chat template refuses a conversation: {shortened(str(error))}") from None


def _turns(one: Exchange) -> list[dict[str, Any]]:
    prompt: Sequence[Message] = one.prompt if not isinstance(one.prompt, str) else [_turn("user", one.prompt)]
    return [dict(message) for message in (*prompt, _turn("assistant", one.response))]


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _asked(one: Exchange) -> str:
    """The prompt as a text, for classifiers that know no dialogues."""
    if isinstance(one.prompt, str):
        return one.prompt
    if len(one.prompt) == 1 and isinstance(one.prompt[0]["content"], str):
        return str(one.prompt[0]["content"])
    raise UserError(
        "--scorer: prompts are dialogues of several messages, and its tokenizer has no chat template, or it is no "
        "reward model of one label: name a reward model with a chat template"
    )


def _padded(tokenizer: PreTrainedTokenizerBase, limit: int, *texts: list[str], add_special_tokens: bool = True) -> Any:
    return tokenizer(
        *texts, return_tensors="pt", padding=tokenizer.pad_token is not None, truncation="longest_first",
        max_length=limit, add_special_tokens=add_special_tokens,
    )  # fmt: skip

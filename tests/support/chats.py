"""Chat templates of the structures that are met, written for the tests, and what becomes of a row under them."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from sparsepo_dist.contracts import Message, PreferenceRow
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.tokens.chat import Chat
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.tokenize import encoder_for, prepare_tokenizer, tokenize_row
from tests.support.tiny import tiny_tokenizer

_ROLE = "{{ '[' + m.role + ']' }}"
_SPLIT = (
    "{% set words = m.content %}{% set why = m.reasoning_content or '' %}{% if '</think>' in words %}"
    "{% set why = words.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set words = words.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)
_CALLS = "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
_LAST_USER = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
)
_OPENED = "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"

PLAIN = (
    "{% for m in messages %}" + _ROLE + "{{ m.content }}" + _CALLS + "<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)  # fmt: skip
"""ChatML-like: nothing depends on anything."""
STRIPPING = (
    "{{ bos_token }}{% for m in messages %}" + _ROLE + "{% if m.role == 'assistant' %}"
    "{{ m.content.split('</think>')[-1] + eos_token }}{% else %}{{ m.content }}{% endif %}{% endfor %}" + _OPENED
)  # fmt: skip
"""R1-like: the generation prompt opens the reasoning, and no answer is rendered with any."""
_THINKING = (
    _LAST_USER + "{% for m in messages %}" + _SPLIT + _ROLE + "{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{ '<think>\n' + why + '\n</think>\n\n' }}{% endif %}{{ words }}" + _CALLS + "<|end|>\n{% endfor %}"
)  # fmt: skip
SWITCHED = (
    _THINKING + "{% if add_generation_prompt %}[assistant]{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Qwen3-like: reasoning, if empty, before the answer; none in earlier turns; off by a switch."""
OPENING = _THINKING + _OPENED
"""Qwen3.5-like: the same, and the generation prompt opens the reasoning."""
CLOSED_AT_ONCE = (
    "{% for m in messages %}" + _SPLIT + _ROLE + "{% if m.role == 'assistant' %}"
    "{{ '<think>\n' + why + '\n</think>\n' if why else '<think></think>' }}{% endif %}{{ words }}<|end|>\n{% endfor %}"
    + _OPENED
)  # fmt: skip
"""Nemotron-like: no reasoning is written otherwise than the generation prompt begins it."""
CHANNELS = (
    "{% for m in messages %}{% if m.role != 'assistant' %}{{ '<s>' + m.role + ':' + m.content + '<|end|>' }}"
    "{% elif loop.last and not add_generation_prompt %}{% if m.reasoning_content %}"
    "{{ '<s>assistant/thought:' + m.reasoning_content + '<|end|>' }}{% endif %}"
    "{{ '<s>assistant/final:' + m.content + '<|return|>' }}{% else %}"
    "{{ '<s>assistant/final:' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant{% endif %}"
)
"""Harmony-like: an answer's channels are headers of their own, and its end is another one while it is the last."""
COUNTING = (
    "{{ messages | length }}{% for m in messages %}" + _ROLE + "{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)  # fmt: skip
"""The prompt itself is another one once a response follows it."""
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}[assistant]{{ m.content }}<|end|>"
    "{% endgeneration %}{{ '\n' }}{% else %}" + _ROLE + "{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)  # fmt: skip
"""SmolLM3-like: the template marks what is the assistant's, its header too."""


def user(content: Any, **more: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    """A message of the assistant."""
    return {"role": "assistant", "content": content, **more}


def chat_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """A token a byte, and one for each end of a turn."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|return|>"]})
    tokenizer.chat_template = template
    return tokenizer


class Read(NamedTuple):
    """A row after tokenisation, as text."""

    prompt: str
    response: str
    trained: list[str]
    """The parts of the response that are trained on; none where all is."""
    remarks: list[str]


def read(template: str, prompt: list[Message], response: list[Message], **config: Any) -> Read:
    """What becomes of a row with one response."""
    tokenizer, data = chat_tokenizer(template), DataConfig(**config)
    prepare_tokenizer(tokenizer, data)
    chat, cuts = Chat(tokenizer, data), Cuts(data)
    encoder = encoder_for(chat, data)
    row = tokenize_row(PreferenceRow(tuple(prompt), (tuple(response),), ()), chat, encoder, cuts, "row 1")
    assert row is not None
    (pair,) = row.pairs()
    spans = [tokenizer.decode(pair.chosen_ids[start:end]) for start, end in pair.chosen_trained]
    remarks = [*chat.remarks(), *encoder.remarks(), *cuts.remarks()]
    return Read(tokenizer.decode(pair.prompt_ids), tokenizer.decode(pair.chosen_ids), spans, remarks)

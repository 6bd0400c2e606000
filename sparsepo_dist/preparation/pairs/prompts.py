"""Prompts that a policy answers: texts, or messages in its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import Side
from sparsepo_dist.data.tokens.template import Template
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.preparation.schema import MESSAGES, TEXT, Kind, Schema

_PROMPT = Kind(f"{TEXT.said}, or {MESSAGES.said}", lambda value: TEXT.holds(value) or MESSAGES.holds(value))


class Answer(NamedTuple):
    """A response to a prompt as its row has it, for those who score it."""

    prompt: Side
    response: str


def read_prompts(source: str, field: str, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Side], int]:
    """Different prompts by the text that the policy reads, in their order; how many rows were read.

    Raises:
        UserError: the source cannot be read, a row has no prompt, or the chat template is missing or refuses it.
    """
    found: dict[str, Side] = {}
    schema, template, count = Schema("prompts (--field names their column)", {field: _PROMPT}), Template(tokenizer), 0
    for row in schema.rows(source, option="--prompts"):
        count += 1
        prompt = row.values[field]
        if isinstance(prompt, str):
            found[prompt] = prompt
            continue
        if tokenizer.chat_template is None:
            raise UserError(f"--prompts {row.place}: messages, and --model has no chat template; give prompts as text")
        messages: tuple[Mapping[str, Any], ...] = tuple(prompt)
        try:
            found[template.render(messages, generation=True)] = messages
        except Exception as error:  # templates raise whatever their author chose
            refusal = shortened(str(error))
            raise UserError(f"--prompts {row.place}: the chat template refuses this row: {refusal}") from None
    return found, count


def as_row(pair: Mapping[str, Any], prompt: Side) -> dict[str, Any]:
    """A preference row whose prompt is as its row had it, and whose responses are of its kind."""
    if isinstance(prompt, str):
        return dict(pair)
    sides = {side: [{"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")}
    return {**pair, "prompt": [dict(message) for message in prompt], **sides}

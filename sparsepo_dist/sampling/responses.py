"""What a response is: how it is drawn, what ends it, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # drivers must not import the hub's client before they know whether to ask a hub
    from transformers import PreTrainedTokenizerBase


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

    temperature: float = 0.9
    top_p: float = 0.95
    max_new_tokens: int = 40
    """Tokens of a response, at most."""
    max_prompt_length: int = 1024
    """Tokens; a longer prompt loses its beginning."""


def response_ends(own: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end a response: the model's own (of its generation settings) and the tokenizer's EOS."""
    return frozenset(
        token for token in (*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id) if token is not None
    )


def until_end(ids: Sequence[int], ends: frozenset[int]) -> tuple[int, ...]:
    """The tokens up to the first that ends a response, which belongs to it."""
    length = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
    return tuple(ids[:length])

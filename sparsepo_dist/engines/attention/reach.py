"""How far back a layer's queries see: transformers asks for a mask of each kind of layer, and gets this in its place.

A model's windows thereby are those that its own forward makes masks of, whatever its layers pass on besides.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import AttentionMaskInterface
from transformers.masking_utils import and_masks, causal_mask_function, chunked_overlay, sliding_window_overlay

from sparsepo_dist.contracts import BlockSpan
from sparsepo_dist.errors import UserError

# Functions made by one `def` share its code, whatever they close over.
_BOTH, _WINDOW = and_masks().__code__, sliding_window_overlay(1).__code__
_CHUNK = chunked_overlay(1, torch.empty(0)).__code__
REMEDY = "say --data.layout padded, which leaves attention to the model"


@dataclass(frozen=True)
class Reach:
    """What a causal layer leaves unseen of a token's own sequence: nothing, or what lies before a window or a chunk.

    It stands where models expect a mask; one that computes with its mask is refused by the first attribute it asks for.
    """

    window: int | None = None
    """A token sees so many tokens, itself the last of them."""
    chunk: int | None = None
    """A token sees those of its own chunk: chunks are so long, counted from the start of its sequence."""

    def first(self, position: Tensor) -> Tensor:
        """The first position, within its sequence, that a token at a position sees."""
        if self.window is not None:
            return (position - self.window + 1).clamp(min=0)
        return position - position % self.chunk if self.chunk is not None else torch.zeros_like(position)

    def limits(self, length: int) -> bool:
        """Whether a sequence of such a length has tokens that do not see all before them."""
        return length > (self.window or self.chunk or length)

    def within(self, longest: int) -> Reach:
        """The same for sequences up to a length: a full reach where nothing is left unseen."""
        return self if self.limits(longest) else FULL

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # asked for by copy, pickle and torch, of any object
        raise UserError(f"data.layout: this model computes with its attention mask ({name}); {REMEDY}")

    def __getitem__(self, _: Any) -> NoReturn:
        raise UserError(f"data.layout: this model computes with its attention mask; {REMEDY}")


FULL = Reach()


def longest_sequence(spans: tuple[BlockSpan, ...]) -> int:
    """Tokens of the longest prompt and response among a batch's blocks."""
    return max(span.prompt + max(span.response, span.rejected) for span in spans)


def asked_reach(*, mask_function: Callable[..., Any], local_size: int | None = None, **_: Any) -> Reach:
    """What transformers calls in place of a function that makes a mask: the reach that the mask would have.

    Source: transformers' masking_utils, `create_causal_mask` and its kin.

    Raises:
        UserError: the mask is none of a causal one, a window and chunks.
    """
    if mask_function is causal_mask_function:
        return FULL
    parts = inspect.getclosurevars(mask_function).nonlocals.get("mask_functions", ())
    if mask_function.__code__ is _BOTH and len(parts) == 2 and parts[1] is causal_mask_function:
        if parts[0].__code__ is _WINDOW:
            return Reach(window=local_size)
        if parts[0].__code__ is _CHUNK:
            return Reach(chunk=local_size)
    raise UserError(f"data.layout: this model's attention is not causal alone, nor by windows or chunks; {REMEDY}")


def register_reach(name: str) -> None:
    """Have models loaded with an `attn_implementation` ask for the reach of their layers, instead of a mask."""
    AttentionMaskInterface.register(name, asked_reach)

"""Rotary embeddings that are others for long sequences than for short ones (LongRoPE): chosen by sequence.

transformers chooses by the longest position of the batch, so that a pair's numbers would depend on its company.

Shapes: rows x T / rows tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from sparsepo_dist.contracts import PackedBatch


def longest_short(config: PretrainedConfig) -> int | None:
    """The longest sequence whose positions a model encodes as in short ones; None where length does not matter."""
    parameters = getattr(config, "rope_parameters", None) or {}
    # Or a dictionary for each type of layers.
    kinds = [parameters, *(kind for kind in parameters.values() if isinstance(kind, dict))]
    limits = [kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"]
    return min(limits, default=None)


def sequence_lengths(batch: PackedBatch) -> Tensor:
    """[rows, T / rows] int64: of each token, prompt + response of its sequence, a last token that is no input too."""
    position = batch.position_ids.view(batch.rows, -1)
    if batch.attention is None:
        return (position.amax(1, keepdim=True) + 2).expand_as(position)
    assert batch.attention.causal
    blocks, slots = batch.attention.gather_index.shape
    block = batch.attention.scatter_index // slots
    longest = position.new_zeros(blocks).scatter_reduce(0, block, position[0], "amax")
    return longest[block].unsqueeze(0) + 2


class RotaryBySequence:
    """The rotary embeddings of a model, each token's by the length of its sequence in the batch that began last."""

    def __init__(self, model: nn.Module, longest: int) -> None:
        """Wrap the rotary modules of a model; sequences up to `longest` tokens are short."""
        self._longest = longest
        self._long: Tensor | None = None
        for module in model.modules():
            if hasattr(module, "inv_freq"):
                setattr(module, "forward", self._by_sequence(module.forward))  # noqa: B010

    def begin(self, batch: PackedBatch | None) -> None:
        """Go by a batch; without one, the longest position decides for all rows, as transformers has it."""
        self._long = None
        if batch is None:
            return
        width = len(batch.input_ids) // batch.rows if batch.attention is None else batch.attention.gather_index.shape[1]
        if width + 1 > self._longest:
            self._long = sequence_lengths(batch) > self._longest

    def _by_sequence(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def by_sequence(states: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._long is None:
                return forward(states, position_ids, *args, **kwargs)

            def encoded(positions: Tensor, highest: int) -> tuple[Tensor, Tensor]:
                """Of these positions beside one that decides what the batch counts as."""
                beside = torch.full_like(positions[:, :1], highest)
                cos, sin = forward(states, torch.cat((positions, beside), 1), *args, **kwargs)
                return cos[:, :-1], sin[:, :-1]

            # Positions that are cut are of long sequences, whose embeddings come from the second.
            short = encoded(position_ids.clamp(max=self._longest - 1), 0)
            long = encoded(position_ids, self._longest)
            return tuple(torch.where(self._long[..., None], *parts) for parts in zip(long, short, strict=True))

        return by_sequence

"""What each packed token sees, as a few integers a token: no tokens x tokens mask has to be made.

Shapes: T packed tokens, B blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.data.batching.pack import CHOSEN, PROMPT, REJECTED
from sparsepo_dist.engines.attention.reach import FULL, Reach


class Spans(NamedTuple):
    """A token sees the packed positions from `first` up to its own, but for those from `hidden_from` to before
    `hidden_to`: the chosen response, hidden from the rejected one behind it. int32 [T] each."""

    first: Tensor
    hidden_from: Tensor
    hidden_to: Tensor

    def see(self, query: Tensor, key: Tensor) -> Tensor:
        """Bool, true where the token at a packed position `query` sees the one at `key`; [T, 1] and [T] make [T, T]."""
        shown = (key < self.hidden_from[query]) | (key >= self.hidden_to[query])
        return (key <= query) & (key >= self.first[query]) & shown


def token_spans(batch: PackedBatch, reach: Reach = FULL) -> Spans:
    """The spans of a batch in a packed layout for layers of a reach, on the batch's device."""
    blocks, slots = _blocks(batch).gather_index.shape
    place = _blocks(batch).scatter_index
    block, slot = place // slots, place % slots
    first = torch.arange(len(place), device=place.device) - slot
    prompts, chosen = (_count(block, blocks, batch.branch == branch) for branch in (PROMPT, CHOSEN))
    rejected = batch.branch == REJECTED
    hidden_from = first + prompts[block]
    hidden_to = hidden_from + chosen[block]
    # A position is the slot of its block, but in the rejected response, which stands behind the chosen one.
    seen = first + reach.first(batch.position_ids)
    seen = seen + chosen[block] * (rejected & (seen >= hidden_from))
    return Spans(seen.int(), (hidden_from * rejected).int(), (hidden_to * rejected).int())


def _blocks(batch: PackedBatch) -> Any:
    assert batch.attention is not None
    return batch.attention


def _count(block: Tensor, blocks: int, counted: Tensor) -> Tensor:
    """[B]: how many tokens of each block count."""
    return torch.zeros(blocks, dtype=torch.int64, device=block.device).index_add(0, block, counted.long())

"""Random micro-batches, and which of their tokens see each other, worked out from the pairs alone."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.attention.inputs import ATTENTION_INPUTS
from sparsepo_dist.engines.attention.registration import Told


def random_pairs(seed: int, count: int, longest: int) -> list[TokenizedPair]:
    """Pairs of uneven lengths; some responses have one token, some pairs no rejected response."""
    draw = random.Random(seed)

    def ids(most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1, 200) for _ in range(draw.randint(1, most)))

    return [
        TokenizedPair(ids(longest), ids(longest), ids(longest) if draw.random() < 0.8 else ()) for _ in range(count)
    ]


def packed(pairs: list[TokenizedPair], layout: Layout) -> PackedBatch:
    """The pairs as one micro-batch."""
    return pack(pairs, [1.0] * len(pairs), layout)


def told(name: str, batch: PackedBatch) -> Told:
    """What the attention function of a name is told of a batch."""
    return Told(batch, ATTENTION_INPUTS[name])


def seen(pairs: list[TokenizedPair], layout: Layout, *, window: int | None = None, chunk: int | None = None) -> Tensor:
    """[T, T] bool: a token sees the prompt and the response that it belongs to, up to itself; the last tokens within a
    window, or those of its chunk, where there is one."""
    owners, positions = [], []  # of each token: the sequences that it is part of, its position in them
    for number, pair in enumerate(pairs):
        mine = [kind for kind, ids in enumerate((pair.chosen_ids, pair.rejected_ids)) if ids]
        for kind in mine:
            shared = layout == "prefix_shared"
            if kind == mine[0] or not shared:
                owners += [{(number, k) for k in (mine if shared else [kind])}] * len(pair.prompt_ids)
                positions += range(len(pair.prompt_ids))
            inputs = len((pair.chosen_ids, pair.rejected_ids)[kind]) - 1
            owners += [{(number, kind)}] * inputs
            positions += range(len(pair.prompt_ids), len(pair.prompt_ids) + inputs)
    sequences = sorted(set().union(*owners))
    part = torch.tensor([[sequence in mine for sequence in sequences] for mine in owners], dtype=torch.float32)
    position = torch.tensor(positions)
    # A key is seen if it comes no later and is part of all sequences that the query is part of.
    sees = (part @ (1 - part).T == 0) & (position <= position[:, None])
    if window is not None:
        sees &= position > position[:, None] - window
    if chunk is not None:
        sees &= position // chunk == position[:, None] // chunk
    return sees

"""Token ids put before every prompt of a packed batch: what a model reads that is told more than the policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.data.batching.pack import PROMPT, attention_blocks, to_device


def prefixed(prompt: Sequence[int], prefix: Sequence[int], bos: int | None) -> list[int]:
    """A prompt's ids with others before them, but behind its BOS."""
    kept = 1 if prompt[0] == bos else 0
    return [*prompt[:kept], *prefix, *prompt[kept:]]


def with_prefix(batch: PackedBatch, prefix: Sequence[int], bos: int | None) -> PackedBatch:
    """A batch, in the same layout, whose prompts are `prefixed`; its N response tokens are the same ones."""
    added, device = len(prefix), batch.input_ids.device
    starts = _starts(batch).to(device)
    begin = starts + (batch.input_ids[starts] == (-1 if bos is None else bos))
    places = torch.arange(len(batch.input_ids), device=device)
    block = torch.searchsorted(starts, places, right=True) - 1
    behind = places >= begin[block]
    moved = places + added * (block + behind)
    steps = torch.arange(added, device=device)
    offsets = torch.arange(len(starts), device=device)
    new = ((begin + added * offsets)[:, None] + steps).flatten()

    def spread(values: Tensor, at_prefix: Tensor) -> Tensor:
        found = values.new_empty(len(values) + len(new))
        found[moved], found[new] = values, at_prefix
        return found

    ids = torch.tensor(prefix, dtype=torch.int64, device=device)
    attention = batch.attention
    if attention is not None:
        spans = [span._replace(prompt=span.prompt + added) for span in attention.spans]
        attention = attention_blocks(spans, shared=not attention.causal)
    longer = dataclasses.replace(
        batch,
        input_ids=spread(batch.input_ids, ids.repeat(len(starts))),
        position_ids=spread(batch.position_ids + added * behind, ((begin - starts)[:, None] + steps).flatten()),
        pair_id=spread(batch.pair_id, batch.pair_id[starts].repeat_interleave(added)),
        branch=spread(batch.branch, torch.full_like(new, PROMPT)),
        # Of a prompt of BOS alone it is the prefix's last token that predicts.
        predict_index=batch.predict_index + added * (block[batch.predict_index] + 1),
        attention=attention,
    )
    return to_device(longer, device)


def _starts(batch: PackedBatch) -> Tensor:
    """[B] int64: where the prompts of blocks begin, ascending; of rows in the layout `padded`."""
    if batch.attention is None:
        return torch.arange(batch.rows) * (len(batch.input_ids) // batch.rows)
    lengths = torch.tensor([sum(span) for span in batch.attention.spans])
    return lengths.cumsum(0) - lengths

"""Layouts: tokenised pairs become one flat micro-batch, with the attention blocks that keep pairs apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sparsepo_dist.contracts import AttentionBlocks, BlockSpan, PackedBatch, Spans, TokenizedPair
from sparsepo_dist.data.config import Layout
from sparsepo_dist.data.tokens.keys import pair_key

PROMPT, CHOSEN, REJECTED = 0, 1, 2


def pack(
    pairs: Sequence[TokenizedPair],
    weights: Sequence[float],
    layout: Layout,
    device: torch.device | None = None,
    indices: Sequence[int] | None = None,
) -> PackedBatch:
    """A micro-batch of pairs on a device (the CPU by default).

    `weights` [P] are their shares of the global mean loss, `indices` [P] their places in the data set (0, 1, ... where
    not given). A pair without rejected ids (supervised fine-tuning) contributes its chosen response only.
    """
    batch = _pack_flat(pairs, weights, indices or range(len(pairs)), share_prompt=layout == "prefix_shared")
    if layout == "padded":
        batch = _pad(batch)
    return batch if device is None or device.type == "cpu" else to_device(batch, device)


def trained_tokens(ids: Sequence[int], trained: Spans) -> list[int]:
    """Those of a response's tokens, or of their numbers, that are trained on."""
    return [token for begin, end in trained or ((0, len(ids)),) for token in ids[begin:end]]


@dataclass
class _Builder:
    """Token columns of a batch under construction."""

    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    pair_id: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    predict_index: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    sequence_id: list[int] = field(default_factory=list)
    spans: list[BlockSpan] = field(default_factory=list)

    def add_inputs(self, ids: Sequence[int], first_position: int, pair: int, branch: int) -> int:
        """Append input tokens; the packed position of the first one."""
        start = len(self.input_ids)
        self.input_ids.extend(ids)
        self.position_ids.extend(range(first_position, first_position + len(ids)))
        self.pair_id.extend([pair] * len(ids))
        self.branch.extend([branch] * len(ids))
        return start

    def add_response(
        self, ids: Sequence[int], trained: Spans, prompt_start: int, prompt_length: int, pair: int, branch: int
    ) -> None:
        """Append a response: the prompt's last token predicts its first token, and its last token is no input."""
        start = self.add_inputs(ids[:-1], prompt_length, pair, branch)
        predicting = [prompt_start + prompt_length - 1, *range(start, start + len(ids) - 1)]
        labels = trained_tokens(ids, trained)
        self.predict_index.extend(trained_tokens(predicting, trained))
        self.labels.extend(labels)
        self.sequence_id.extend([2 * pair + (branch == REJECTED)] * len(labels))


def _pack_flat(
    pairs: Sequence[TokenizedPair], weights: Sequence[float], indices: Sequence[int], *, share_prompt: bool
) -> PackedBatch:
    out = _Builder()
    for number, pair in enumerate(pairs):
        responses = [
            (CHOSEN, pair.chosen_ids, pair.chosen_trained),
            (REJECTED, pair.rejected_ids, pair.rejected_trained),
        ]
        prompt, prompt_start = len(pair.prompt_ids), 0
        for branch, ids, trained in responses:
            if not ids:
                continue
            if branch == CHOSEN or not share_prompt:
                prompt_start = out.add_inputs(pair.prompt_ids, 0, number, PROMPT)
                out.spans.append(BlockSpan(prompt, len(ids) - 1))
            else:
                out.spans[-1] = out.spans[-1]._replace(rejected=len(ids) - 1)
            out.add_response(ids, trained, prompt_start, prompt, number, branch)
    columns: dict[str, Any] = {name: torch.tensor(getattr(out, name), dtype=torch.int64) for name in _COLUMNS}
    blocks = attention_blocks(out.spans, shared=share_prompt)
    scores = [pair.scores for pair in pairs]
    return PackedBatch(
        **columns,
        pair_index=torch.tensor(indices, dtype=torch.int64),
        pair_key=torch.tensor([pair_key(pair) for pair in pairs], dtype=torch.int64),
        scores=None if None in scores else torch.tensor(scores, dtype=torch.float32),
        pair_weight=torch.tensor(weights, dtype=torch.float32),
        rows=1,
        attention=blocks,
    )


_COLUMNS = ("input_ids", "position_ids", "pair_id", "branch", "predict_index", "labels", "sequence_id")


def attention_blocks(spans: Sequence[BlockSpan], *, shared: bool) -> AttentionBlocks:
    """Blocks of contiguous packed tokens, one after the other, on the CPU; `spans` [B] say how long each is."""
    lengths = torch.tensor([sum(span) for span in spans])
    first = lengths.cumsum(0) - lengths
    slots = torch.arange(int(lengths.max()))
    valid = slots < lengths[:, None]
    gather = torch.where(valid, first[:, None] + slots, 0)
    return AttentionBlocks(gather, valid.flatten().nonzero().squeeze(-1), tuple(spans), causal=not shared)


def shared_mask(blocks: AttentionBlocks, branch: torch.Tensor) -> torch.Tensor:
    """[B, 1, S, S] bool: what slots of blocks see in which two responses share a prompt.

    Padding slots see only themselves, which keeps the softmax finite; nothing reads their output.
    """
    gather = blocks.gather_index
    valid = torch.zeros(gather.numel(), dtype=torch.bool, device=gather.device)
    valid = valid.index_fill(0, blocks.scatter_index, True).view_as(gather)
    slots = torch.arange(gather.shape[1], device=gather.device)
    block_branch = torch.where(valid, branch[gather], -1)
    sees = (slots[:, None] >= slots) & valid[:, None, :]
    sees = sees & ~((block_branch[:, :, None] == REJECTED) & (block_branch[:, None, :] == CHOSEN))
    sees = sees | torch.eye(len(slots), dtype=torch.bool, device=gather.device)
    return sees.unsqueeze(1)


def _pad(packed: PackedBatch) -> PackedBatch:
    """Each block becomes a right-padded row of a rectangle, flattened again to [T]."""
    assert packed.attention is not None
    gather, scatter = packed.attention.gather_index, packed.attention.scatter_index
    rows, width = gather.shape
    padded: dict[str, Any] = {
        name: torch.full((rows * width,), fill, dtype=torch.int64).index_copy(0, scatter, getattr(packed, name))
        for name, fill in (("input_ids", 0), ("position_ids", 0), ("pair_id", -1), ("branch", PROMPT))
    }
    return PackedBatch(
        **padded,
        predict_index=scatter[packed.predict_index],
        labels=packed.labels,
        sequence_id=packed.sequence_id,
        pair_index=packed.pair_index,
        pair_key=packed.pair_key,
        scores=packed.scores,
        pair_weight=packed.pair_weight,
        rows=rows,
        attention=None,
    )


def to_device(batch: PackedBatch, device: torch.device) -> PackedBatch:
    """The batch with every tensor on a device."""

    def moved(record: PackedBatch | AttentionBlocks) -> dict[str, object]:
        values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
        return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in values.items()}

    attention = AttentionBlocks(**moved(batch.attention)) if batch.attention is not None else None  # type: ignore[arg-type]
    return PackedBatch(**{**moved(batch), "attention": attention})  # type: ignore[arg-type]

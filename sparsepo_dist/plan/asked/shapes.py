"""The micro-batch that memory is planned for: as many pairs of the greatest length as fit into the budget.

Shapes: T packed tokens, N response tokens, B attention blocks padded to S slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from sparsepo_dist.contracts import AttentionBlocks, BlockSpan, PackedBatch
from sparsepo_dist.data.batching.balance import plan_step
from sparsepo_dist.data.config import DataConfig, Layout
from sparsepo_dist.engines.deepspeed.ds_config import most_pairs_per_micro_batch
from sparsepo_dist.plan.asked.request import Device, Setting


class PairShape(NamedTuple):
    """Lengths of a pair, in tokens."""

    prompt: int
    response: int
    responses: int
    """2, or 1 where rejected responses are not used."""

    @classmethod
    def longest(cls, data: DataConfig, *, rejected: bool) -> PairShape:
        """The longest prompt and responses that the recipe allows."""
        prompt = min(data.max_prompt_length, data.max_length - 1)
        return cls(prompt, data.max_length - prompt, 2 if rejected else 1)

    def tokens(self, layout: Layout) -> int:
        """Packed tokens: a response's last token is never an input."""
        prompts = 1 if layout == "prefix_shared" else self.responses
        return prompts * self.prompt + self.responses * (self.response - 1)

    def scaled(self, tokens: int, layout: Layout) -> PairShape:
        """A pair of the same proportions with about so many packed tokens."""
        share = tokens / self.tokens(layout)
        return self._replace(prompt=max(1, int(self.prompt * share)), response=max(1, int(self.response * share)))


class BatchShape(NamedTuple):
    """Sizes of a micro-batch."""

    tokens: int
    """T."""
    predicted: int
    """N."""
    blocks: int
    """B; in the padded layout, rows of the rectangle."""
    slots: int
    """S; in the padded layout, the rectangle's width."""
    layout: Layout
    spans: tuple[BlockSpan, ...] = ()
    """Of each block, in the packed layouts."""
    device: Device = "cpu"

    @property
    def bytes(self) -> int:
        """Of the batch itself: columns of int64, and the attention's indices."""
        columns = 8 * (4 * self.tokens + 3 * self.predicted)
        return columns if self.layout == "padded" else columns + 8 * (self.blocks * self.slots + self.tokens)

    def predicted_by_one_of(self, ranks: int) -> int:
        """Most response tokens of a rank, where so many share the batch: all that its tokens can predict. The last
        token of a prompt that two responses share predicts the first of both."""
        return min(self.predicted, -(-self.tokens // ranks) + self.blocks)

    def times(self, count: int) -> BatchShape:
        """So many micro-batches of this shape as one."""
        return self._replace(
            tokens=self.tokens * count, predicted=self.predicted * count, blocks=self.blocks * count,
            spans=self.spans * count,
        )  # fmt: skip


def largest_batch(setting: Setting) -> BatchShape:
    """The micro-batch with the most tokens, every pair being as long as the recipe allows.

    A last, shorter pair fills what the budget leaves; a pair longer than the budget is a micro-batch of its own.
    """
    data, needs = setting.config.data, setting.needs
    pair = PairShape.longest(data, rejected=needs.rejected)
    length = pair.tokens(data.settled_layout)
    most = -(-setting.pairs_per_step // setting.groups)
    limit = most_pairs_per_micro_batch(setting.request.ds_config)
    most = most if limit is None else min(most, limit)
    count = max(1, min(most, data.tokens_per_micro_batch // length))
    pairs = [pair] * count
    rest = data.tokens_per_micro_batch - count * length
    if count < most and rest >= 4 * pair.responses:
        pairs.append(pair.scaled(rest, data.settled_layout))
    return batch_of(pairs, data.settled_layout, setting.request.device)


def batch_of(pairs: list[PairShape], layout: Layout, device: Device = "cpu") -> BatchShape:
    """Sizes of the micro-batch that `data.pack` makes of such pairs."""
    predicted = sum(pair.responses * pair.response for pair in pairs)
    if layout == "prefix_shared":
        spans = [BlockSpan(p.prompt, p.response - 1, (p.response - 1) * (p.responses - 1)) for p in pairs]
    else:
        spans = [BlockSpan(pair.prompt, pair.response - 1) for pair in pairs for _ in range(pair.responses)]
    blocks, slots = len(spans), max(map(sum, spans))
    if layout == "padded":
        return BatchShape(blocks * slots, predicted, blocks, slots, layout, device=device)
    return BatchShape(sum(map(sum, spans)), predicted, blocks, slots, layout, tuple(spans), device)


def mean_pair(setting: Setting) -> PairShape:
    """A pair of the mean length: as long as the recipe allows, in the same proportions, where none is given."""
    data = setting.config.data
    longest = PairShape.longest(data, rejected=setting.needs.rejected)
    if setting.request.tokens_per_pair is None:
        return longest
    return longest.scaled(max(1, round(setting.request.tokens_per_pair)), data.settled_layout)


def micro_batches(setting: Setting) -> int:
    """Micro-batches of an optimizer step on each rank, if every pair had the mean length."""
    data = setting.config.data
    longest = PairShape.longest(data, rejected=setting.needs.rejected).tokens(data.settled_layout)
    mean = max(1, round(setting.request.tokens_per_pair or longest))
    pairs = range(setting.pairs_per_step)
    limit = most_pairs_per_micro_batch(setting.request.ds_config)
    return len(plan_step(pairs, dict.fromkeys(pairs, mean), setting.groups, data.tokens_per_micro_batch, limit)[0])


def batch_like(shape: BatchShape) -> PackedBatch:
    """A micro-batch of that shape; only its sizes mean anything."""
    tokens, predicted = (torch.zeros(size, dtype=torch.int64) for size in (shape.tokens, shape.predicted))
    attention = None
    if shape.layout != "padded":
        attention = AttentionBlocks(
            gather_index=torch.zeros(shape.blocks, shape.slots, dtype=torch.int64),
            scatter_index=tokens.clone(),
            spans=shape.spans,
            causal=shape.layout != "prefix_shared",
        )
    return PackedBatch(
        input_ids=tokens,
        position_ids=tokens.clone(),
        pair_id=tokens.clone(),
        branch=tokens.clone(),
        predict_index=predicted,
        labels=predicted.clone(),
        sequence_id=predicted.clone(),
        pair_index=torch.zeros(1, dtype=torch.int64),
        pair_key=torch.zeros(1, dtype=torch.int64),
        scores=None,
        pair_weight=torch.zeros(1),
        rows=shape.blocks if shape.layout == "padded" else 1,
        attention=attention,
    )

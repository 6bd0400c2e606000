"""Micro-batches of any optimizer step, for this rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from sparsepo_dist.contracts import PackedBatch, TokenizedPair, TokenShare
from sparsepo_dist.data.batching.balance import MicroBatchPlan, imbalance, pair_tokens, plan_step
from sparsepo_dist.data.batching.order import SampleOrder, drawn
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.pairs import TokenizedPairs
from sparsepo_dist.engines.deepspeed.distributed import rank, world_size


@dataclass(frozen=True)
class MicroBatches:
    """Packs global batches of a data set into this rank's micro-batches."""

    pairs: Sequence[TokenizedPair]
    config: DataConfig
    device: torch.device
    most_pairs: int | None = None
    """Of a micro-batch, where the ds_config limits them."""
    share: TokenShare | None = None
    """Where ranks compute a micro-batch between them."""

    def of(self, indices: Sequence[int]) -> StepBatches:
        """This rank's micro-batches of a global batch; equally many on every rank, weights summing to 1 over all. Ranks
        that share micro-batches have the same."""
        tokens = {i: pair_tokens(self.pairs[i], self.config.settled_layout) for i in indices}
        ranks = 1 if self.share is None else self.share.ranks
        plans = plan_step(indices, tokens, world_size() // ranks, self.config.tokens_per_micro_batch, self.most_pairs)
        return StepBatches(self, plans[rank() // ranks], 1 / len(indices), imbalance(plans, tokens))

    def packed(self, plans: Sequence[MicroBatchPlan], share: float) -> PackedBatch:
        """The pairs of some micro-batches as one, each with its share of the global mean."""
        indices = [i for plan in plans for i in plan.indices]
        weights = [0.0 if plan.filler else share for plan in plans for _ in plan.indices]
        pairs = [self.pairs[i] for i in indices]
        return self.shared(pack(pairs, weights, self.config.settled_layout, self.device, indices))

    def shared(self, batch: PackedBatch) -> PackedBatch:
        """A batch that all ranks of a group have, of which this one computes its share; `padded` ones stay whole."""
        return batch if batch.attention is None else dataclasses.replace(batch, share=self.share)

    def tokens(self, indices: Sequence[int]) -> int:
        """Packed tokens of a global batch, over all ranks."""
        return sum(pair_tokens(self.pairs[i], self.config.settled_layout) for i in indices)

    def evaluated(self) -> Sequence[int]:
        """Indices of the pairs that evaluation looks at, in file order: one of each row, the same in all runs."""
        if isinstance(self.pairs, TokenizedPairs) and self.pairs.grouped:
            return drawn(self.pairs, range(self.pairs.rows), seed=0, epoch=0)
        return range(len(self.pairs))


class Group(NamedTuple):
    """Micro-batches that frozen models score at once."""

    joined: PackedBatch
    """All of their pairs, in the same order: response tokens are those of the micro-batches, one after the other."""
    micro_batches: list[PackedBatch]


@dataclass(frozen=True)
class StepBatches:
    """One rank's part of a global batch; packed when it is needed."""

    source: MicroBatches
    plans: Sequence[MicroBatchPlan]
    share: float
    """Of one pair in the global mean."""
    imbalance: float
    """Tokens that the fullest rank computes, over the mean of all ranks."""

    def __len__(self) -> int:
        """Number of micro-batches, the same on every rank."""
        return len(self.plans)

    def groups(self, size: int) -> Iterator[Group]:
        """The micro-batches, `size` of them at a time; the last group may be smaller."""
        for start in range(0, len(self.plans), size):
            plans = self.plans[start : start + size]
            batches = [self.source.packed([plan], self.share) for plan in plans]
            yield Group(batches[0] if len(plans) == 1 else self.source.packed(plans, self.share), batches)


def in_steps(indices: Sequence[int], pairs_per_step: int) -> Iterator[list[int]]:
    """Pairs in global batches, as they stand."""
    for start in range(0, len(indices), pairs_per_step):
        yield list(indices[start : start + pairs_per_step])


def sample_order(pairs: Sequence[TokenizedPair], pairs_per_step: int, seed: int) -> SampleOrder:
    """Order of the training pairs; a step is never larger than the data set."""
    if isinstance(pairs, TokenizedPairs) and pairs.grouped:
        return SampleOrder(pairs.rows, min(pairs_per_step, pairs.rows), seed, pairs)
    return SampleOrder(len(pairs), min(pairs_per_step, len(pairs)), seed)

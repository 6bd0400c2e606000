"""Micro-batches of any optimizer step, for this rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sparsepo_dist.contracts import PackedBatch, TokenizedPair
from sparsepo_dist.data.balance import pair_tokens, plan_step
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.order import SampleOrder
from sparsepo_dist.data.pack import pack
from sparsepo_dist.engines.distributed import rank, world_size


@dataclass(frozen=True)
class MicroBatches:
    """Packs global batches of a data set into this rank's micro-batches."""

    pairs: Sequence[TokenizedPair]
    config: DataConfig
    device: torch.device
    most_pairs: int | None = None

    def of(self, indices: Sequence[int]) -> Iterator[PackedBatch]:
        """This rank's micro-batches of a global batch; equally many on every rank, weights summing to 1 over all."""
        tokens = {i: pair_tokens(self.pairs[i], self.config.layout) for i in indices}
        plans = plan_step(indices, tokens, world_size(), self.config.tokens_per_micro_batch, self.most_pairs)
        for plan in plans[rank()]:
            weight = 0.0 if plan.filler else 1 / len(indices)
            members = [self.pairs[i] for i in plan.indices]
            yield pack(members, [weight] * len(members), self.config.layout, self.device, plan.indices)

    def tokens(self, indices: Sequence[int]) -> int:
        """Packed tokens of a global batch, over all ranks."""
        return sum(pair_tokens(self.pairs[i], self.config.layout) for i in indices)

    def steps(self, pairs_per_step: int) -> Iterator[list[int]]:
        """Indices of all pairs in file order, in global batches: for evaluation."""
        for start in range(0, len(self.pairs), pairs_per_step):
            yield list(range(start, min(start + pairs_per_step, len(self.pairs))))


def sample_order(pairs: Sequence[TokenizedPair], pairs_per_step: int, seed: int) -> SampleOrder:
    """Order of the training pairs; a step is never larger than the data set."""
    return SampleOrder(len(pairs), min(pairs_per_step, len(pairs)), seed)

"""Which pairs make up which optimizer step: the same on every rank, and computable for any step alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SampleOrder:
    """A fresh permutation of all pairs each epoch, cut into global batches; the last batch of an epoch may be short."""

    pairs: int
    pairs_per_step: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        return -(-self.pairs // self.pairs_per_step)

    def step(self, step: int) -> list[int]:
        """Indices of the pairs of optimizer step `step` (0-based, over all epochs)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.pairs, generator=generator)
        return order[within * self.pairs_per_step : (within + 1) * self.pairs_per_step].tolist()

"""Which pairs make up which optimizer step: the same on every rank, and computable for any step alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sparsepo_dist.data.store.pairs import TokenizedPairs


@dataclass(frozen=True)
class SampleOrder:
    """A fresh permutation of all rows each epoch, cut into global batches; the last batch of an epoch may be short.

    A row gives one pair an epoch: of a row that makes several, one is drawn.
    """

    pairs: int
    """Rows."""
    pairs_per_step: int
    seed: int
    groups: TokenizedPairs | None = None
    """The rows, where some make several pairs."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        return -(-self.pairs // self.pairs_per_step)

    def step(self, step: int) -> list[int]:
        """Indices of the pairs of optimizer step `step` (0-based, over all epochs)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = _permutation(self.pairs, self.seed * 1_000_003 + epoch)
        rows = order[within * self.pairs_per_step : (within + 1) * self.pairs_per_step].tolist()
        return rows if self.groups is None else drawn(self.groups, rows, self.seed, epoch)


@lru_cache(maxsize=1)
def _permutation(rows: int, seed: int) -> Tensor:
    """[rows] int64: of one epoch, which its steps share."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


def drawn(pairs: TokenizedPairs, rows: Sequence[int], seed: int, epoch: int) -> list[int]:
    """One pair of each row: drawn by seed, epoch and row alone, whatever else is drawn."""
    return [_draw(pairs.pairs_of_row(row), f"{seed} {epoch} {row}") for row in rows]


def _draw(pairs: range, what: str) -> int:
    number = hashlib.blake2b(what.encode(), digest_size=8).digest()
    return pairs[int.from_bytes(number, "little") % len(pairs)]

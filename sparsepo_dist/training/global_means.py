"""Means over the global batch for objectives whose loss of one pair depends on all the others (KTO, beta-DPO)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch, Responses, TokenMasks, TokenStats
from sparsepo_dist.objectives import BatchObjective, Objective


class GlobalMeans:
    """The means of a step, and their moving average over the training steps before it."""

    def __init__(self, objective: BatchObjective) -> None:
        self._objective = objective
        self.history: Tensor | None = None
        self._now: Tensor | None = None

    @classmethod
    def for_objective(cls, objective: Objective) -> GlobalMeans | None:
        """None for objectives that look at each pair alone."""
        return cls(cast(BatchObjective, objective)) if objective.requirements.global_means else None

    def forget(self) -> None:
        """A new global batch begins."""
        self._now = None

    @torch.no_grad()
    def reduce(self, micro_batches: Iterable[tuple[TokenStats, TokenMasks | None, PackedBatch]]) -> Tensor:
        """[K] float32 means over all micro-batches of the global batch and all ranks; every rank must call this."""
        total: Tensor | None = None
        for stats, masks, batch in micro_batches:
            values = self._objective.batch_values(stats, masks, batch.responses).double()
            weight = batch.counted_weight[:, None]
            # where, not a product: a filler pair's value may be infinite
            part = torch.where(weight > 0, values * weight, 0.0).sum(0)
            total = part if total is None else total + part
        assert total is not None
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(total)
        self._now = total.float()
        return self._now

    def inform(self, stats: TokenStats, masks: TokenMasks | None, batch: PackedBatch, *, training: bool) -> Responses:
        """A micro-batch's responses with what the objective asked for; the only micro-batch is all there is to know.

        Every rank must call this.
        """
        means = self.reduce([(stats, masks, batch)]) if self._now is None else self._now
        return dataclasses.replace(batch.responses, global_means=means, history=self.history if training else None)

    def state(self) -> list[float] | None:
        """The moving average, for a checkpoint."""
        return None if self.history is None else self.history.tolist()

    def restore(self, history: list[float] | None, device: torch.device) -> None:
        """Put back what `state` gave."""
        self.history = None if history is None else torch.tensor(history, dtype=torch.float32, device=device)

    def remember(self) -> None:
        """Take a finished training step into the moving average."""
        assert self._now is not None
        momentum = self._objective.requirements.momentum
        self.history = self._now if self.history is None else momentum * self.history + (1 - momentum) * self._now

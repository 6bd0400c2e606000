"""The loop: score with the reference, statistics from the policy, loss from the objective, step."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs, TokenMasks, TokenStats
from sparsepo_dist.engines.distributed import world_size
from sparsepo_dist.engines.policy import PolicyEngine
from sparsepo_dist.engines.reference import ReferenceEngine
from sparsepo_dist.objectives import Objective
from sparsepo_dist.training.batches import MicroBatches, sample_order
from sparsepo_dist.training.config import TrainingConfig
from sparsepo_dist.training.global_means import GlobalMeans
from sparsepo_dist.training.metrics import MetricSums
from sparsepo_dist.training.schedule import learning_rate_factor


@dataclass
class Trainer:
    """Trains a policy on pairs.

    All state lives in the engine and, for objectives that compare steps, in `global_means`, so that any step can be
    computed from its number.
    """

    policy: PolicyEngine
    reference: ReferenceEngine | None
    oracle: ReferenceEngine | None
    objective: Objective
    train_batches: MicroBatches
    heldout_batches: MicroBatches | None
    config: TrainingConfig
    pairs_per_step: int
    run: Path

    def __post_init__(self) -> None:
        self.global_means = GlobalMeans.for_objective(self.objective)
        self.order = sample_order(self.train_batches.pairs, self.pairs_per_step, self.config.seed)
        steps = math.ceil(self.config.epochs * self.order.steps_per_epoch)
        self.total_steps = min(steps, self.config.max_steps or steps)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs besides the engine."""
        return {"history": None if self.global_means is None else self.global_means.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        if self.global_means is not None:
            self.global_means.restore(state["history"], self.train_batches.device)

    def train_step(self, step: int) -> dict[str, float]:
        """One optimizer step; metrics over its global batch."""
        started = time.perf_counter()
        self.policy.train()
        sums = MetricSums()
        indices = self.order.step(step)
        batches = list(self.train_batches.of(indices))
        known = self._begin(batches)
        for number, (batch, first) in enumerate(zip(batches, known, strict=True), start=1):
            all_tokens = step % self.config.full_metrics_every == 0
            losses = self._losses(batch, sums, first, all_tokens=all_tokens)
            # DeepSpeed averages over ranks; the weights already average over the whole global batch.
            self.policy.backward((losses * batch.pair_weight).sum() * world_size(), last=number == len(batches))
        factor = learning_rate_factor(step, self.total_steps, self.config.schedule, self.config.warmup_ratio)
        grad_norm = self.policy.step(factor)
        if self.global_means is not None:
            self.global_means.remember()
        seconds = time.perf_counter() - started
        return {
            **sums.reduce(),
            "grad_norm": grad_norm,
            "learning_rate": self.policy.learning_rate,
            "epoch": (step + 1) / self.order.steps_per_epoch,
            "tokens_per_second": self.train_batches.tokens(indices) / seconds,
            "seconds": seconds,
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Metrics over all held-out pairs."""
        assert self.heldout_batches is not None
        self.policy.train(False)
        sums = MetricSums()
        for indices in self.heldout_batches.steps(self.pairs_per_step):
            batches = list(self.heldout_batches.of(indices))
            share = len(indices) / len(self.heldout_batches.pairs)
            for batch, first in zip(batches, self._begin(batches), strict=True):
                self._losses(batch, sums, first, share=share, training=False)
        return sums.reduce()

    def statistics(
        self, batch: PackedBatch, *, all_tokens: bool = True, reference_logps: Tensor | None = None
    ) -> tuple[TokenStats, TokenMasks | None]:
        """Per-token statistics and masks of a micro-batch; the reference is not asked for log-probabilities that are
        known. Every rank must call this."""
        reference = None
        if reference_logps is not None:
            reference = ReferenceOutputs(logps=reference_logps)
        elif self.reference is not None:
            reference = self.reference.score(batch)
        if self.oracle is not None:
            oracle_logps = self.oracle.score(batch).logps
            reference = dataclasses.replace(reference or ReferenceOutputs(), oracle_logps=oracle_logps)
        return self.policy.stats(batch, reference, all_tokens=all_tokens)

    def _begin(self, batches: Sequence[PackedBatch]) -> Sequence[TokenStats | None]:
        """Before a global batch: what one pair must know of the others takes a first pass over all of them.

        Its statistics, without gradient; None for each micro-batch where there was no such pass.
        """
        if self.global_means is not None:
            self.global_means.forget()
        if self.global_means is None or len(batches) == 1:  # one pass gives the only micro-batch's means and loss
            return [None] * len(batches)
        with torch.no_grad():
            first = [self.statistics(batch)[0] for batch in batches]
            self.global_means.reduce(zip(first, batches, strict=True))
        return first

    def _losses(
        self, batch: PackedBatch, sums: MetricSums, first: TokenStats | None, *, share: float = 1.0,
        all_tokens: bool = True, training: bool = True,
    ) -> Tensor:  # fmt: skip
        """`first` is what a first pass found, for objectives without masks: all of it where nothing is trained."""
        if first is not None and not training:
            stats, masks = first, None
        else:
            known = None if first is None else first.reference_logp
            stats, masks = self.statistics(batch, all_tokens=all_tokens, reference_logps=known)
        responses = batch.responses
        if self.global_means is not None:
            responses = self.global_means.inform(stats, batch, training=training)
        losses, metrics = self.objective(stats, masks, responses)
        sums.add({"loss": losses.detach(), **metrics}, batch.pair_weight * share)
        return losses

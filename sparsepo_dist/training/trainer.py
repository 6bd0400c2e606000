"""One step, one evaluation: score with the reference, statistics from the policy, loss from the objective, update."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs, TokenMasks, TokenStats
from sparsepo_dist.engines.deepspeed.distributed import of_all_ranks, world_size
from sparsepo_dist.engines.policy import PolicyEngine
from sparsepo_dist.engines.reference.cached import Reference
from sparsepo_dist.engines.reference.oracles import Oracles, scored
from sparsepo_dist.engines.sequence.rows import OwnRows
from sparsepo_dist.objectives import Objective
from sparsepo_dist.training.batches import MicroBatches, StepBatches, in_steps, sample_order
from sparsepo_dist.training.config import TrainingConfig
from sparsepo_dist.training.global_means import GlobalMeans
from sparsepo_dist.training.mask_weights import MaskReport, MaskWeights
from sparsepo_dist.training.metrics import MetricSums
from sparsepo_dist.training.schedule import learning_rate_factor
from sparsepo_dist.training.supervision.progress import Progress


class StepResult(NamedTuple):
    """What an optimizer step gave; the same on every rank, but for its time."""

    metrics: dict[str, float]
    """Over its global batch."""
    skipped: bool
    """Whether nothing was updated, because loss or gradient were not finite."""
    rows: tuple[str, ...]
    """Of a skipped step: the rows whose loss is not finite; none where only the gradient is not."""
    masks: MaskReport
    """What its masks weigh."""


class Evaluation(NamedTuple):
    """What the held-out pairs gave, the same on every rank."""

    metrics: dict[str, float]
    """Over all of them; `pairs` is how many."""
    masks: MaskReport


@dataclass
class Trainer:
    """Trains a policy on pairs.

    All state lives in the engine and, for objectives that compare steps, in `global_means`, so that any step can be
    computed from its number.
    """

    policy: PolicyEngine
    reference: Reference | None
    oracles: Oracles
    objective: Objective
    train_batches: MicroBatches
    heldout_batches: MicroBatches | None
    config: TrainingConfig
    pairs_per_step: int
    run: Path
    micro_batches_per_pass: int = 1
    """How many micro-batches frozen models score at once."""
    progress: Progress = field(default_factory=Progress)

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

    def train_step(self, step: int) -> StepResult:
        """Optimizer step `step` (0-based); where loss or gradient are not finite, nothing is updated.

        Every rank must call this. Of its metrics, `seconds` and `tokens_per_second` are of this rank's clock.
        """
        started = time.perf_counter()
        self.progress.at("packing pairs", step=step + 1)
        self.policy.train()
        sums, weights = MetricSums(), MaskWeights()
        seen: list[tuple[Tensor, Tensor]] = []
        indices = self.order.step(step)
        batches = self.train_batches.of(indices)
        for number, known in enumerate(self._known(batches), start=1):
            batch, all_tokens = known.batch, step % self.config.full_metrics_every == 0
            losses = self._losses(known, sums, weights, all_tokens=all_tokens)
            seen.append((batch.pair_index, losses.detach()))
            # DeepSpeed averages over ranks; the weights already average over the whole global batch.
            loss = (losses * batch.pair_weight).sum() * world_size()
            # A loss that is none has no gradient worth a step, even where its derivative is finite.
            loss = loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)
            self.progress.at(f"backward of micro-batch {number}")
            self.policy.backward(loss, last=number == len(batches))
        factor = learning_rate_factor(step, self.total_steps, self.config.schedule, self.config.warmup_ratio)
        self.progress.at("optimizer step")
        grad_norm = self.policy.step(factor)
        means, masks = sums.reduce(), weights.reduce()
        skipped = not math.isfinite(grad_norm)
        if self.global_means is not None and not skipped:
            self.global_means.remember()
        seconds = time.perf_counter() - started
        metrics = {
            **means,
            **masks.metrics,
            "grad_norm": grad_norm,
            "learning_rate": self.policy.learning_rate,
            "epoch": (step + 1) / self.order.steps_per_epoch,
            "tokens_per_second": self.train_batches.tokens(indices) / seconds,
            "seconds": seconds,
            "imbalance": batches.imbalance,
        }
        return StepResult(metrics, skipped, self._rows_without_loss(seen) if skipped else (), masks)

    def _rows_without_loss(self, seen: Sequence[tuple[Tensor, Tensor]]) -> tuple[str, ...]:
        """Rows of (pair_index [P], losses [P]) whose loss is not finite, on any rank; every rank must call this."""
        own = [int(i) for index, losses in seen for i in index[~losses.isfinite().cpu()]]
        everywhere = sorted({i for part in of_all_ranks(own) for i in part})
        return tuple(self.train_batches.pairs[i].place for i in everywhere)

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Metrics over all held-out rows. Every rank must call this."""
        assert self.heldout_batches is not None
        self.progress.at("evaluation")
        self.policy.train(False)
        sums, weights = MetricSums(), MaskWeights()
        evaluated = self.heldout_batches.evaluated()
        for indices in in_steps(evaluated, self.pairs_per_step):
            share = len(indices) / len(evaluated)
            for known in self._known(self.heldout_batches.of(indices)):
                self._losses(known, sums, weights, share=share, training=False)
        means, masks = sums.reduce(), weights.reduce()
        return Evaluation({**means, **masks.metrics, "pairs": len(evaluated)}, masks)

    def score(self, batch: PackedBatch) -> ReferenceOutputs | None:
        """What the frozen models of their own say of a batch; None if there are none. Every rank must call this."""
        return scored(batch, self.reference, self.oracles, self.progress.at)

    def statistics(
        self, batch: PackedBatch, reference: ReferenceOutputs | None, *, all_tokens: bool = True
    ) -> tuple[TokenStats, TokenMasks | None]:
        """Per-token statistics and masks of a micro-batch, `reference` being what `score` said of it. Every rank must
        call this."""
        self.progress.at("the policy's forward")
        return self.policy.stats(batch, reference, all_tokens=all_tokens)

    def _known(self, batches: StepBatches) -> Iterator[_Known]:
        """Each micro-batch of a global batch with what is known before its loss.

        Where one pair must know of the others, a first pass over all of them comes before the first micro-batch.
        """
        if self.global_means is not None:
            self.global_means.forget()
        scored = self._scored(batches)
        if self.global_means is None or len(batches) == 1:  # one pass gives the only micro-batch's means and loss
            yield from (_Known(batch, reference) for batch, reference in scored)
            return
        with torch.no_grad():
            first = [(*self.statistics(batch, reference), batch) for batch, reference in scored]
            self.global_means.reduce(first)
        if any(masks is not None for _, masks, _ in first):  # what masks read is large: it is asked for again
            yield from (_Known(batch, reference) for batch, reference in self._scored(batches))
            return
        for stats, _, batch in first:
            logps = stats.reference_logp
            outputs = None if logps is None else OwnRows.of(batch).pick_outputs(ReferenceOutputs(logps=logps))
            yield _Known(batch, outputs, stats)

    def _scored(self, batches: StepBatches) -> Iterator[tuple[PackedBatch, ReferenceOutputs | None]]:
        """Sharded models gather their weights once for a group of micro-batches, and when its first one is due."""
        for group in batches.groups(self.micro_batches_per_pass):
            outputs = self.score(group.joined)
            if outputs is None:
                yield from ((batch, None) for batch in group.micro_batches)
            else:
                parts = outputs.split([len(OwnRows.of(batch).index) for batch in group.micro_batches])
                yield from zip(group.micro_batches, parts, strict=True)

    def _losses(
        self, known: _Known, sums: MetricSums, weights: MaskWeights, *, share: float = 1.0, all_tokens: bool = True,
        training: bool = True,
    ) -> Tensor:  # fmt: skip
        batch = known.batch
        if known.first is not None and not training:  # without masks
            stats, masks = known.first, None
        else:
            every = all_tokens or self.objective.requirements.all_tokens
            stats, masks = self.statistics(batch, known.reference, all_tokens=every)
        responses = batch.responses
        if self.global_means is not None:
            responses = self.global_means.inform(stats, masks, batch, training=training)
        losses, metrics = self.objective(stats, masks, responses)
        metrics = {"loss": losses.detach(), **metrics}
        if stats.router_loss is not None:
            # The pairs' weights sum to the micro-batch's share of the global batch, which is the router loss's too.
            losses = losses + stats.router_loss
            metrics["loss/router_aux"] = stats.router_loss.detach().expand_as(losses)
        sums.add(metrics, batch.counted_weight * share)
        if masks is not None:
            weights.add(masks, batch)
        return losses


class _Known(NamedTuple):
    """A micro-batch before its loss."""

    batch: PackedBatch
    reference: ReferenceOutputs | None
    first: TokenStats | None = None
    """Of a first pass, without gradient; None where there are masks."""

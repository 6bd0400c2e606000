"""The run from where it stands to its end: steps, evaluations, checkpoints, and a clean stop when one is asked for."""

from __future__ import annotations

import dataclasses
import logging
import signal
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from sparsepo_dist.engines.deepspeed.distributed import rank, world_size
from sparsepo_dist.errors import RunError, StoppedError
from sparsepo_dist.training.checkpoints.checkpointer import Checkpointer
from sparsepo_dist.training.checkpoints.store import Checkpoint
from sparsepo_dist.training.metrics import MetricsWriter
from sparsepo_dist.training.supervision.control import StopRequest, agree
from sparsepo_dist.training.trackers import Trackers
from sparsepo_dist.training.trainer import StepResult, Trainer

log = logging.getLogger(__name__)

_MOST_ROWS_NAMED = 8


@dataclasses.dataclass
class TrainingLoop:
    """One process's part of a run. Every rank has one.

    Args:
        identity: what a checkpoint says of the run it belongs to, for whoever resumes from it.
        save: writes the model that the run is for; a RunError where it cannot, on every rank.
        export: the same of the model after a step before the last.
        stop: hears signals, if someone has opened it.
    """

    trainer: Trainer
    checkpointer: Checkpointer
    identity: Mapping[str, Any]
    save: Callable[[], None]
    export: Callable[[int], None]
    stop: StopRequest = dataclasses.field(default_factory=StopRequest)

    def __post_init__(self) -> None:
        self._skipped = 0
        self._updates = 0
        self._dead: set[str] = set()

    def run(self, checkpoint: Checkpoint | None = None) -> None:
        """Go on from a checkpoint, or start.

        Raises:
            StoppedError: a signal asked for it; a checkpoint is complete.
            RunError: the run cannot go on.
        """
        trainer = self.trainer
        trainer.progress.at("loading the checkpoint")
        first, written = 0, None
        if checkpoint is not None:
            state = self.checkpointer.load(checkpoint, self.identity["data"]["heldout"])
            trainer.restore(state["trainer"])
            first, written, self._skipped = state["step"], state["metrics_bytes"], state["skipped_steps"]
            self._updates = state.get("updates", first - self._skipped)
        trackers = Trackers(trainer.config.track, trainer.run, self.identity.get("config", {}), resumed=first > 0)
        with (
            self.stop.finishing(),
            MetricsWriter(trainer.run / "metrics.jsonl", trainer.policy.engine.monitor, trackers, written) as writer,
            tqdm(total=trainer.total_steps, initial=first, desc="training", unit="step", disable=rank() != 0) as bar,
        ):
            if first == 0:
                self._evaluate(writer, 0)
            for step in range(first, trainer.total_steps):
                result = trainer.train_step(step)
                writer.write(step + 1, "train", result.metrics, result.masks.histograms)
                self._warn_of_dead_masks(step + 1, result)
                bar.set_postfix_str(
                    f"loss {result.metrics['loss']:.4f}, {result.metrics['tokens_per_second']:.0f} tokens/s",
                    refresh=False,
                )
                bar.update()
                if result.skipped:
                    self._count_skipped(step + 1, result)
                else:
                    self._updates += 1
                best = self._due(step + 1) and self._evaluate(writer, step + 1)
                self._between_steps(step + 1, writer, best=best)
            self.checkpointer.finish()
            self.checkpointer.require_finite(trainer.total_steps)
            self._require_updates()
            self._save(writer)

    def _require_updates(self) -> None:
        if not self._updates:
            raise RunError(
                f"all {self.trainer.total_steps} steps were skipped: the model is what it was, and is not saved. Mend "
                "or drop the rows that were named, lower training.learning_rate, or see docs/troubleshooting.md"
            )

    def _save(self, writer: MetricsWriter) -> None:
        """The model; where it cannot be saved a checkpoint of the last step, so that only saving is left to do.

        Raises:
            RunError: it cannot be saved.
        """
        trainer, checkpointer, step = self.trainer, self.checkpointer, self.trainer.total_steps
        if checkpointer.ends_as_best:
            self._become_best(writer)
        trainer.progress.at("saving the model")
        try:
            self.save()
        except RunError as error:
            trainer.progress.at("writing a checkpoint instead")
            try:
                if checkpointer.newest != step:  # with keep_best the last step has one
                    checkpointer.save(step, self._state(writer))
                    checkpointer.finish()
            except RunError as another:
                raise type(another)(f"{error}; {another}") from None
            raise RunError(f"{error}. {checkpointer.store.left()}, which only saves the model") from None

    def _become_best(self, writer: MetricsWriter) -> None:
        """From here on the model is that of the best evaluation, and what is measured of it is written as `final`.

        Raises:
            RunError: there was no evaluation that could be the best.
            UserError: its checkpoint is gone.
        """
        self.trainer.progress.at("loading the best checkpoint")
        step = self.checkpointer.load_best()
        metrics, masks = self.trainer.evaluate()
        writer.write(step, "final", metrics, masks.histograms)
        if rank() == 0:
            log.info("final/ is the model after step %d of %d, the best", step, self.trainer.total_steps)

    def _between_steps(self, step: int, writer: MetricsWriter, *, best: bool) -> None:
        checkpointer, progress = self.checkpointer, self.trainer.progress
        if checkpointer.exports(step) and step < self.trainer.total_steps:
            progress.at("exporting the model")
            checkpointer.require_finite(step)
            self._export(step)
        progress.at("agreeing on what comes next")
        agreed = agree(self.trainer.policy.device, stop=self.stop.signal or 0, due=best or checkpointer.due(step))
        ended = step == self.trainer.total_steps
        if agreed.due or agreed.stop or (ended and checkpointer.at_the_end):
            progress.at("writing a checkpoint")
            checkpointer.save(step, self._state(writer))
        if agreed.stop and not ended:
            progress.at("completing a checkpoint")
            checkpointer.finish()
            name = signal.Signals(agreed.stop).name
            raise StoppedError(
                f"stopped by {name} after step {step} of {self.trainer.total_steps}; the checkpoint is complete, "
                "go on with --resume auto",
                by_hand=agreed.stop == signal.SIGINT,
            )

    def _export(self, step: int) -> None:
        try:
            self.export(step)
        except RunError as error:
            self.checkpointer.finish()
            raise RunError(f"{error}. {self.checkpointer.store.left()}") from None

    def _warn_of_dead_masks(self, step: int, result: StepResult) -> None:
        """Once for each mask that rules out all that a step has; what else there is may still be let through."""
        for name in result.masks.dead:
            if name not in self._dead and rank() == 0:
                log.warning(
                    "since step %d the %s rules out every response token: it has no gradient any more, and what it "
                    "weights no part in the loss. Lower masks.learning_rate, masks.weight_decay or the L1 penalty, or "
                    "start anew with another training.seed or --masks.init calibrated", step, name.replace("_", " "),
                )  # fmt: skip
            self._dead.add(name)

    def _count_skipped(self, step: int, result: StepResult) -> None:
        """Say which rows spoiled a step, and stop when there were too many such steps."""
        if self.trainer.policy.seeks_loss_scale and not result.rows:
            return  # how fp16 finds its scale
        self._skipped += 1
        most = self.trainer.config.max_skipped_steps
        rows = "; ".join(result.rows[:_MOST_ROWS_NAMED])
        if len(result.rows) > _MOST_ROWS_NAMED:
            rows += f" and {len(result.rows) - _MOST_ROWS_NAMED} more"
        what = f"the loss is not finite for {rows}" if rows else "the gradient is not finite, the loss of every row is"
        sentence = f"step {step} was skipped: {what}"
        if self._skipped > most:
            self.checkpointer.finish()
            raise RunError(
                f"{sentence}. That is one more than the {most} steps that training.max_skipped_steps allows. No "
                "checkpoint holds any of it. Mend or drop those rows, lower training.learning_rate, or see "
                f"docs/troubleshooting.md. {self.checkpointer.store.left()}"
            )
        if rank() == 0:
            log.warning("%s (%d of at most %d skipped steps)", sentence, self._skipped, most)

    def _state(self, writer: MetricsWriter) -> dict[str, Any]:
        return {
            **self.identity,
            "world_size": world_size(),
            "total_steps": self.trainer.total_steps,
            "metrics_bytes": writer.synced_bytes(),
            "skipped_steps": self._skipped,
            "updates": self._updates,
            "trainer": self.trainer.state(),
        }

    def _due(self, step: int) -> bool:
        every = self.trainer.config.evaluate_every
        return step == self.trainer.total_steps or bool(every and step % every == 0)

    def _evaluate(self, writer: MetricsWriter, step: int) -> bool:
        """Evaluate on the held-out pairs, if any; whether it is the best so far."""
        if self.trainer.heldout_batches is None:
            return False
        metrics, masks = self.trainer.evaluate()
        writer.write(step, "eval", metrics, masks.histograms)
        return self.checkpointer.evaluated(step, metrics)

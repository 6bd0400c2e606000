"""The run from where it stands to its end: steps, evaluations, checkpoints, and a clean stop when one is asked for."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from sparsepo_dist.engines.distributed import rank, world_size
from sparsepo_dist.errors import StoppedError
from sparsepo_dist.training.checkpoint_store import Checkpoint
from sparsepo_dist.training.checkpointer import Checkpointer
from sparsepo_dist.training.control import StopRequest, agree
from sparsepo_dist.training.metrics import MetricsWriter
from sparsepo_dist.training.trainer import Trainer


@dataclasses.dataclass
class TrainingLoop:
    """One process's part of a run. Every rank has one.

    Args:
        identity: what a checkpoint says of the run it belongs to, for whoever resumes from it.
    """

    trainer: Trainer
    checkpointer: Checkpointer
    identity: Mapping[str, Any]

    def run(self, checkpoint: Checkpoint | None = None) -> None:
        """Go on from a checkpoint, or start.

        Raises:
            StoppedError: a signal asked for it; a checkpoint is complete.
            RunError: the run cannot go on.
        """
        trainer = self.trainer
        state = None if checkpoint is None else self.checkpointer.load(checkpoint)
        first = 0 if state is None else int(state["step"])
        if state is not None:
            trainer.restore(state["trainer"])
        written = None if state is None else int(state["metrics_bytes"])
        stop = StopRequest()
        with (
            stop.listening(),
            MetricsWriter(trainer.run / "metrics.jsonl", trainer.policy.engine.monitor, written) as writer,
            tqdm(total=trainer.total_steps, initial=first, desc="training", unit="step", disable=rank() != 0) as bar,
        ):
            if first == 0:
                self._evaluate(writer, 0)
            for step in range(first, trainer.total_steps):
                metrics = trainer.train_step(step)
                writer.write(step + 1, "train", metrics)
                bar.set_postfix_str(
                    f"loss {metrics['loss']:.4f}, {metrics['tokens_per_second']:.0f} tokens/s", refresh=False
                )
                bar.update()
                best = self._due(step + 1) and self._evaluate(writer, step + 1)
                self._between_steps(step + 1, stop, writer, best=best)
            self.checkpointer.finish()

    def _between_steps(self, step: int, stop: StopRequest, writer: MetricsWriter, *, best: bool) -> None:
        checkpointer = self.checkpointer
        agreed = agree(
            self.trainer.train_batches.device, stop=stop.signal or 0, due=best or checkpointer.due(step),
            busy=checkpointer.busy,
        )  # fmt: skip
        ended = step == self.trainer.total_steps
        if agreed.due or agreed.stop or (ended and checkpointer.enabled):
            checkpointer.save(step, self._state(writer))
        elif not agreed.busy:
            checkpointer.finish()
        if agreed.stop and not ended:
            checkpointer.finish()
            name = signal.Signals(agreed.stop).name
            raise StoppedError(
                f"stopped by {name} after step {step} of {self.trainer.total_steps}; the checkpoint is complete, "
                "go on with --resume auto"
            )

    def _state(self, writer: MetricsWriter) -> dict[str, Any]:
        return {
            **self.identity,
            "world_size": world_size(),
            "total_steps": self.trainer.total_steps,
            "metrics_bytes": writer.bytes_written,
            "trainer": self.trainer.state(),
        }

    def _due(self, step: int) -> bool:
        every = self.trainer.config.evaluate_every
        return step == self.trainer.total_steps or bool(every and step % every == 0)

    def _evaluate(self, writer: MetricsWriter, step: int) -> bool:
        """Evaluate on the held-out pairs, if any; whether it is the best so far."""
        if self.trainer.heldout_batches is None:
            return False
        metrics = self.trainer.evaluate()
        writer.write(step, "eval", metrics)
        return self.checkpointer.evaluated(step, metrics)

"""Writes a run's checkpoints from all ranks: DeepSpeed's files at once, the rest beside the next steps.

Syncing and checksums need no collective: ranks leave their part in a file, and rank 0 publishes when all are there.
So a checkpoint becomes complete even if the steps after it fail or hang.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sparsepo_dist.disk import follow_umask, free_bytes, in_gib, remove, unwritten
from sparsepo_dist.engines.deepspeed.distributed import barrier, lost_peer, of_all_ranks, of_rank_0, rank, world_size
from sparsepo_dist.engines.deepspeed.persistence import TAG, load_engine, save_engine
from sparsepo_dist.engines.deepspeed.universal import Conversion
from sparsepo_dist.engines.policy import PolicyEngine
from sparsepo_dist.engines.saving import checkpoint_bytes
from sparsepo_dist.errors import RankError, RunError, UserError
from sparsepo_dist.training.checkpoints import random_state
from sparsepo_dist.training.checkpoints.best import best_checkpoint
from sparsepo_dist.training.checkpoints.config import CheckpointConfig
from sparsepo_dist.training.checkpoints.store import STATE, Checkpoint, CheckpointStore
from sparsepo_dist.training.supervision.control import agree_all

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05


class Checkpointer:
    """The checkpoints of one run. Every rank has one, and calls its methods in the same order."""

    def __init__(self, policy: PolicyEngine, folder: Path, config: CheckpointConfig) -> None:
        self.store = CheckpointStore(folder)
        self.config = config
        self._policy = policy
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: tuple[int, list[Future[None]]] | None = None
        self._last_time = time.monotonic()
        self.best: tuple[int, float] | None = None
        """Step and value of the best evaluation so far, where one is kept."""
        self.newest: int | None = None
        """Step of the last checkpoint that this run wrote or went on from, once it is complete."""

    @property
    def at_the_end(self) -> bool:
        """Whether the last step gets a checkpoint too."""
        return bool(self.config.every_steps or self.config.keep_best)

    def exports(self, step: int) -> bool:
        """Whether the model after `step` steps is written besides, as it is at the end."""
        every = self.config.export_every_steps
        return bool(every) and step % every == 0

    def due(self, step: int) -> bool:
        """Whether this rank wants a checkpoint after `step` steps; the clock is rank 0's."""
        by_step = bool(self.config.every_steps) and step % self.config.every_steps == 0
        minutes = (time.monotonic() - self._last_time) / 60
        return by_step or (rank() == 0 and 0 < self.config.every_minutes <= minutes)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Note an evaluation; whether it is the best so far, which deserves a checkpoint.

        Raises:
            RunError: it has no such metric.
        """
        name = self.config.keep_best
        if name is None:
            return False
        if name not in metrics:
            raise RunError(f"checkpoints.keep_best: evaluations have no {name!r}; they have {', '.join(metrics)}")
        if step == 0:
            return False
        value = metrics[name] if self.config.best_is == "lowest" else -metrics[name]
        if not math.isfinite(value) or (self.best is not None and value >= self.best[1]):
            return False
        self.best = (step, value)
        return True

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write what the engine, this rank and `state` (rank 0's) are after `step` steps; complete after `finish`.

        Raises:
            RankError: it, or the one before, cannot be written here.
            RunError: there is no room for it, or the weights are no longer finite (on every rank).
        """
        self.finish()
        self.require_finite(step)
        with self._explained(step):
            pending = self.store.begin(step) if rank() == 0 else self.store.pending(step)
            self._require_room(step)
            self._policy.settle()
            save_engine(self._policy.engine, pending)
            own = pending / _rank_file(rank())
            save_file(random_state.capture(), own)
            follow_umask([own])
            if rank() == 0:
                (pending / STATE).write_text(
                    json.dumps({"step": step, "best": self.best, "best_by": self._best_by, **state}), encoding="utf-8"
                )
            files = _files_of_all(pending)
        mine = [pending / name for name in files[rank() :: world_size()]]
        best = None if self.best is None else self.best[0]
        digest = self._thread.submit(self.store.digest, step, mine, rank())
        tasks = [digest]
        if rank() == 0:
            tasks.append(self._thread.submit(self._publish, step, best, digest))
        self._writing = (step, tasks)
        self._last_time = time.monotonic()

    def _require_room(self, step: int) -> None:
        """Raise RunError, on every rank, if the disk is too full for a checkpoint."""
        needed = checkpoint_bytes(self._policy)
        room = rank() != 0 or free_bytes(self.store.folder) >= needed
        if not agree_all(self._policy.device, room):
            if rank() == 0:
                shutil.rmtree(self.store.pending(step))
            raise RunError(
                f"the checkpoint of step {step} takes about {in_gib(needed)}, {self.store.folder} has "
                f"{in_gib(free_bytes(self.store.folder))} free: make room. {self.store.left()}"
            )

    def require_finite(self, step: int) -> None:
        """Raise RunError, on every rank, if the weights are not finite."""
        if not agree_all(self._policy.device, self._policy.finite()):
            raise RunError(
                f"the weights are not finite after step {step}: nothing is written from them. Start a new run "
                "with a lower training.learning_rate, or see docs/troubleshooting.md"
            )

    def _publish(self, step: int, best: int | None, own: Future[None]) -> None:
        """Beside the next steps: the checkpoint is complete as soon as all ranks have synced their files."""
        own.result()  # raises where this rank failed: its part would never come
        while not self.store.digested(step, world_size()):
            time.sleep(POLL_SECONDS)
        self.store.publish(step, world_size())
        self.store.prune(self.config.keep_last, best)

    def finish(self) -> None:
        """Wait until the last checkpoint is one, and old ones are gone.

        Raises:
            RankError: it cannot be written.
            RuntimeError: another rank is gone.
        """
        if self._writing is None:
            return
        step, tasks = self._writing
        self._writing = None
        with self._explained(step):
            tasks[0].result()
            barrier()  # fails where a rank is gone, whose part rank 0 would wait for
            tasks[-1].result()
            barrier()
        self.newest = step

    @property
    def _best_by(self) -> list[str | None]:
        """What evaluations are compared by."""
        return [self.config.keep_best, self.config.best_is]

    def load(self, checkpoint: Checkpoint, heldout: str) -> dict[str, Any]:
        """Put engine and random states back; what the trainer had written. The checkpoint must be sound.

        On another number of ranks, weights and optimizer are the same, random states cannot be. The best evaluation so
        far is forgotten where evaluations are no longer compared by the same metric, or on the same held-out pairs.

        Args:
            heldout: fingerprint of the held-out pairs as they are now.

        Raises:
            UserError: it is of another model, or cannot be converted to this number of ranks.
        """
        state = checkpoint.state()
        self._load_engine(checkpoint)
        if state["world_size"] == world_size():
            random_state.restore(load_file(checkpoint.folder / _rank_file(rank())))
        else:
            torch.manual_seed(torch.initial_seed() + checkpoint.step)
        self.newest = checkpoint.step
        self.best = None if state["best"] is None else (int(state["best"][0]), float(state["best"][1]))
        if self.best is not None and (state["best_by"], state["data"]["heldout"]) != (self._best_by, heldout):
            if rank() == 0:
                log.warning(
                    "the best evaluation so far, after step %d, was by another metric (checkpoints.keep_best, best_is) "
                    "or on other held-out pairs: it is forgotten, and those from here on are compared", self.best[0],
                )  # fmt: skip
            self.best = None
        if self.ends_as_best and self.best is not None:
            best_checkpoint(self.store, self.best[0])
        return state

    @property
    def ends_as_best(self) -> bool:
        """Whether the model that the run is for is not its last one but its best one."""
        return self.config.final == "best"

    def load_best(self) -> int:
        """Put the weights of the best evaluation into the engine, to be saved as the run's model; nothing is trained
        after that. Every rank must call this, once the last checkpoint is complete.

        Returns:
            its step.

        Raises:
            RunError: no evaluation gave a number.
            UserError: its checkpoint is gone or damaged.
        """
        if self.best is None:
            raise RunError(
                f"checkpoints.final: no evaluation of the trained model gave a finite {self.config.keep_best}: there "
                f"is no best one. {self.store.left()}; say --checkpoints.final last to save the last one"
            )
        step = self.best[0]
        if self.newest != step:
            self._policy.settle()
            self._load_engine(best_checkpoint(self.store, step))
        return step

    def _load_engine(self, checkpoint: Checkpoint) -> None:
        if checkpoint.state()["world_size"] == world_size():
            load_engine(self._policy.engine, checkpoint.folder)
        else:
            self._load_resharded(checkpoint)

    def _load_resharded(self, checkpoint: Checkpoint) -> None:
        if not any((checkpoint.folder / TAG).glob("*optim_states.pt")):  # ZeRO-0: every rank holds all of it
            load_engine(self._policy.engine, checkpoint.folder)
            return
        # named like an interrupted writer's folder, so that the next one removes it
        whole = self.store.folder / f".writing-universal-{checkpoint.folder.name}"
        conversion = None
        if rank() == 0:
            remove(whole)
            conversion = Conversion(checkpoint.folder, whole)
        # One short collective after the other: a single long one would time out, and would not see rank 0 die.
        while not agree_all(self._policy.device, conversion is None or conversion.done()):
            time.sleep(POLL_SECONDS)
        failure = of_rank_0(None if conversion is None else conversion.failure())
        if failure is not None:
            raise UserError(failure)
        load_engine(self._policy.engine, whole, universal=True)
        barrier()
        if rank() == 0:
            shutil.rmtree(whole)

    @contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """torch's writer says RuntimeError where the disk is full."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and lost_peer(error):
                raise
            raise RankError(
                f"rank {rank()}: the checkpoint of step {step} could not be written to "
                f"{unwritten(error, self.store.folder)}. {self.store.left()}"
            ) from None


def _files_of_all(folder: Path) -> list[str]:
    """Names of the files that ranks have written; shared file systems may show each of them little but its own."""
    files = (path for path in folder.rglob("*") if path.is_file())
    # safetensors writes under a hidden name that it renames: another rank's may be gone a moment after it is seen here
    own = [path.relative_to(folder).as_posix() for path in files if not path.name.startswith(".")]
    return sorted({name for part in of_all_ranks(own) for name in part})


def _rank_file(number: int) -> str:
    return f"rank-{number:05d}.safetensors"

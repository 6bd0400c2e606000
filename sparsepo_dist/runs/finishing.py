"""The two ends of a run's time: whether there is anything left to do, and whether the disk can hold what will be."""

from __future__ import annotations

from sparsepo_dist.disk import free_bytes, in_gib
from sparsepo_dist.engines.deepspeed.distributed import of_rank_0, rank
from sparsepo_dist.engines.saving import checkpoint_bytes, final_bytes
from sparsepo_dist.errors import FinishedError, UserError
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.folder import FINAL, run_folder
from sparsepo_dist.training.checkpoints.checkpointer import Checkpointer
from sparsepo_dist.training.trainer import Trainer


def check_unfinished(config: RunConfig) -> None:
    """Every rank must call this; nothing is touched.

    Raises:
        FinishedError: the run that `--resume auto` would go on with has its model (on every rank).
    """
    if config.resume != "auto":
        return
    folder = run_folder(config)
    if of_rank_0((folder / FINAL).is_dir()):
        raise FinishedError(
            f"The run in {folder} is finished: final/ is its model, and nothing was done. Another run needs another "
            "--output_dir; --overwrite true in place of --resume auto starts this one anew"
        )


def check_room(trainer: Trainer, checkpointer: Checkpointer, done: int) -> None:
    """Every rank must call this, before anything is trained.

    Args:
        done: optimizer steps of the checkpoint that the run goes on from.

    Raises:
        UserError: the disk of the run's folder cannot hold a checkpoint, the model at its end and what is exported on
            its way (on every rank).
    """
    model, checkpoint = final_bytes(trainer.policy), checkpoint_bytes(trainer.policy)
    exports = sum(map(checkpointer.exports, range(done + 1, trainer.total_steps)))
    needed = models = model * (1 + exports)
    if done < trainer.total_steps:
        needed += checkpoint
    told: tuple[int, int] | None = None
    if rank() == 0:
        # A checkpoint beyond those that are kept takes the place of one before the model is saved.
        if len(checkpointer.store.complete()) >= checkpointer.config.keep_last:
            needed = max(models, needed - model)
        told = needed, free_bytes(trainer.run)
    told = of_rank_0(told)
    assert told is not None
    needed, free = told
    if needed > free:
        raise UserError(
            f"output_dir: the disk of {trainer.run} has {in_gib(free)} free, too little for this run: a checkpoint "
            f"takes about {in_gib(checkpoint)}, the model at its end {in_gib(model)}"
            f"{f', and as much each of {exports} on its way' if exports else ''}. Make room, or name a folder on "
            "another disk"
        )

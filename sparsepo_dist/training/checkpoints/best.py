"""The checkpoint of the best evaluation, for a run whose model is that one (`checkpoints.final: best`)."""

from __future__ import annotations

from sparsepo_dist.engines.deepspeed.distributed import of_all_ranks, of_rank_0, rank, world_size
from sparsepo_dist.errors import UserError
from sparsepo_dist.training.checkpoints.store import Checkpoint, CheckpointStore


def damage_on_any_rank(checkpoint: Checkpoint) -> str | None:
    """As `Checkpoint.damage`, the reading shared out. Every rank must call this."""
    found = of_all_ranks(checkpoint.damage(rank(), world_size()))
    return next((damage for damage in found if damage is not None), None)


def best_checkpoint(store: CheckpointStore, step: int) -> Checkpoint:
    """The sound checkpoint of `step`, the best so far. Every rank must call this.

    Raises:
        UserError: it is gone or damaged (on every rank).
    """
    # Rank 0's view: shared file systems show a fresh folder to some machines later than to others.
    complete = of_rank_0(store.complete())
    found = next((checkpoint for checkpoint in complete if checkpoint.step == step), None)
    damage = "it is no longer there" if found is None else damage_on_any_rank(found)
    if found is None or damage is not None:
        raise UserError(
            f"checkpoints.final: best is what the run had after step {step}, but of that checkpoint, in "
            f"{store.folder}, {damage}. Put it back and say --resume auto, or --checkpoints.final last besides"
        )
    return found

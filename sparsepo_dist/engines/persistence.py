"""The policy engine's part of a checkpoint: what is trained, its optimizer and its counters, by DeepSpeed."""

from __future__ import annotations

from pathlib import Path

from sparsepo_dist.engines.policy import PolicyEngine
from sparsepo_dist.errors import UserError

TAG = "engine"


def save_engine(policy: PolicyEngine, folder: Path) -> None:
    """Write folder/engine/, frozen weights left out. Every rank must call this."""
    policy.settle()
    policy.engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)


def load_engine(policy: PolicyEngine, folder: Path) -> None:
    """Put back what `save_engine` wrote, into an engine that was built alike and has not run yet.

    Every rank must call this. The files must have been checked before: DeepSpeed unpickles them.

    Raises:
        UserError: they are of another model, or of another number of ranks.
    """
    # The groups' settings are the run's own; loading replaces them by what was current when the file was written.
    settings = [{key: value for key, value in group.items() if key != "params"} for group in _groups(policy)]
    try:
        path, _ = policy.engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    except (RuntimeError, KeyError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise UserError(f"resume: {folder} does not fit this model or these ranks: {reason}") from None
    if path is None:
        raise UserError(f"resume: {folder} holds nothing that DeepSpeed could load")
    for group, kept in zip(_groups(policy), settings, strict=True):
        group.update(kept)


def _groups(policy: PolicyEngine) -> list[dict[str, object]]:
    groups: list[dict[str, object]] = policy.engine.optimizer.param_groups
    return groups

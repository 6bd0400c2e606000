"""Going on with a run: which checkpoint, and whether it belongs to what is configured now."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.engines.deepspeed.distributed import rank, world_size
from sparsepo_dist.engines.deepspeed.ds_config import zero_stage
from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.folder import CHECKPOINTS, run_folder
from sparsepo_dist.runs.inputs import Inputs
from sparsepo_dist.training.checkpoints.store import Checkpoint, CheckpointStore, open_checkpoint

log = logging.getLogger(__name__)

# What changes how a run is computed or watched, not what it computes.
MAY_DIFFER = (
    "output_dir", "resume", "resume_changed_data", "overwrite", "ds_config", "checkpoints.", "ops.",
    "data.tokens_per_micro_batch", "data.layout", "data.train", "data.heldout",
    "reference.placement", "reference.cache", "reference.tokens_per_pass", "oracle.placement",
    "model.activation_checkpointing", "model.attention",
    "training.evaluate_every", "training.full_metrics_every", "training.max_skipped_steps", "training.hang_minutes",
)  # fmt: skip


def resolved(inputs: Inputs, folder: Path) -> dict[str, Any]:
    """The configuration as it is used: what recipe and ds_config agreed on, filled in."""
    config = dataclasses.asdict(inputs.config) | {
        "output_dir": str(folder), "resume": None, "resume_changed_data": False, "overwrite": False,
    }  # fmt: skip
    for name, value in inputs.agreed.items():
        config["training"][name.removeprefix("training.")] = list(value) if "betas" in name else value
    config["training"]["precision"] = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(inputs.dtype, "fp32")
    return config


def identity(inputs: Inputs, folder: Path) -> dict[str, Any]:
    """What a checkpoint says of the run it belongs to."""
    return {
        "config": resolved(inputs, folder),
        "zero_stage": zero_stage(inputs.ds_config),
        "data": {"train": fingerprint(inputs.train), "heldout": fingerprint(inputs.heldout)},
    }


def fingerprint(pairs: Sequence[TokenizedPair]) -> str:
    """SHA-256 of every token id and score, in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(array("q", ids).tobytes())
        digest.update(repr(pair.scores).encode())
    return digest.hexdigest()


def find_checkpoint(resume: str | None, folder: Path) -> Checkpoint | None:
    """The checkpoint to go on from; None to start. Every rank must call this: they share the reading.

    Args:
        resume: as configured: None, "auto" or a checkpoint's folder.
        folder: the run's checkpoints.

    Raises:
        UserError: the one that was named is none, or damaged.
    """
    if resume is None:
        return None
    candidates = (
        _same_on_all(CheckpointStore(folder).complete()) if resume == "auto" else [open_checkpoint(Path(resume))]
    )
    for checkpoint in candidates:
        damage = _damage_on_any_rank(checkpoint)
        if damage is None:
            return checkpoint
        if resume != "auto":
            raise UserError(f"resume: the checkpoint {resume} is damaged: {damage}; name another, or say --resume auto")
        if rank() == 0:
            log.warning("the checkpoint %s is damaged: %s; trying the one before", checkpoint.folder, damage)
    if candidates and rank() == 0:
        log.warning("no checkpoint in %s is sound: starting from the beginning", folder)
    return None


def retire_newer(folder: Path, checkpoint: Checkpoint | None) -> None:
    """On rank 0, take the checkpoints out of the way that are newer than the one the run goes on from."""
    if rank() == 0:
        for path in CheckpointStore(folder).retire_after(-1 if checkpoint is None else checkpoint.step):
            log.warning("kept aside, and used no more: %s", path)


def _same_on_all(candidates: list[Checkpoint]) -> list[Checkpoint]:
    """Rank 0's view: shared file systems show a fresh folder to some machines later than to others."""
    told = [candidates]
    if world_size() > 1:
        dist.broadcast_object_list(told, src=0)
    return told[0]


def _damage_on_any_rank(checkpoint: Checkpoint) -> str | None:
    own = checkpoint.damage(rank(), world_size())
    found = [own]
    if world_size() > 1:
        found = [None] * world_size()
        dist.all_gather_object(found, own)
    return next((damage for damage in found if damage is not None), None)


def check_newest(inputs: Inputs) -> dict[str, Any] | None:
    """As `check_same_run`, by what the newest checkpoint says of itself; before ranks wait for each other.

    One that cannot be read is left to `find_checkpoint`, which looks at all files of all of them.

    Returns:
        the run's identity, if there was a checkpoint to hold it against: making it reads all the data.

    Raises:
        UserError: as there.
    """
    config = inputs.config
    if config.resume is None:
        return None
    folder = run_folder(config)
    if config.resume == "auto":
        newest = CheckpointStore(folder / CHECKPOINTS).complete()[:1]
    else:
        newest = [open_checkpoint(Path(config.resume))]
    if not newest:
        return None
    now = identity(inputs, folder)
    try:
        state = newest[0].state()
    except (OSError, ValueError):
        return now
    if isinstance(state, dict) and now.keys() <= state.keys():
        check_same_run(newest[0], now, changed_data=config.resume_changed_data)
    return now


def check_same_run(checkpoint: Checkpoint, now: Mapping[str, Any], *, changed_data: bool) -> None:
    """Refuse to go on with another configuration, or with data that has changed.

    Raises:
        UserError: every field that differs is named, with both values.
    """
    state = checkpoint.state()
    differing = [
        f"{name} is {_at(now['config'], name)!r} now and {_at(state['config'], name)!r} there"
        for name in _leaves(now["config"])
        if _at(now["config"], name) != _at(state["config"], name) and not _may_differ(name)
    ]
    if differing:
        raise UserError(
            f"resume: {checkpoint.folder} belongs to another configuration: {'; '.join(differing)}. Use the run's own "
            "config.yaml as --recipe, or start a new run"
        )
    if state["zero_stage"] != now["zero_stage"]:
        raise UserError(
            f"resume: {checkpoint.folder} was written under ZeRO stage {state['zero_stage']}, the ds_config says "
            f"{now['zero_stage']}; name a ds_config of that stage"
        )
    for part, digest in now["data"].items():
        if digest != state["data"][part] and not changed_data:
            raise UserError(
                f"resume: data.{part} is not what {checkpoint.folder} was trained on (other rows, another order "
                "or tokenizer); restore it, or go on all the same with --resume_changed_data true"
            )


def _may_differ(name: str) -> bool:
    return any(name.startswith(part) if part.endswith(".") else name == part for part in MAY_DIFFER)


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _at(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return list(value) if isinstance(value, tuple) else value

"""Going on with a run: which checkpoint, and whether it belongs to what is configured now."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from sparsepo_dist.engines.deepspeed.distributed import of_rank_0, rank
from sparsepo_dist.engines.deepspeed.ds_config import zero_stage
from sparsepo_dist.errors import UserError
from sparsepo_dist.files import leaves
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.folder import CHECKPOINTS, FINAL, run_folder
from sparsepo_dist.runs.inputs import Inputs
from sparsepo_dist.training.checkpoints.best import damage_on_any_rank
from sparsepo_dist.training.checkpoints.store import Checkpoint, CheckpointStore, open_checkpoint
from sparsepo_dist.training.config import TrainingConfig

log = logging.getLogger(__name__)

VERSION = importlib.metadata.version("sparsepo_dist")

# What changes how a run is computed or watched, not what it computes.
MAY_DIFFER = (
    "output_dir", "resume", "resume_changed_data", "overwrite", "ds_config", "checkpoints.", "ops.",
    "data.tokens_per_micro_batch", "data.layout", "data.train", "data.heldout", "data.date", "data.show", "data.format",
    "data.columns", "data.columns.", "data.cache", "data.workers",
    "reference.placement", "reference.cache", "reference.tokens_per_pass", "oracle.placement",
    "oracle_against.placement",
    "model.activation_checkpointing", "model.attention", "model.check",
    "training.evaluate_every", "training.full_metrics_every", "training.max_skipped_steps", "training.hang_minutes",
    "training.track",
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
        "version": VERSION,
        "config": resolved(inputs, folder),
        "zero_stage": zero_stage(inputs.ds_config),
        "data": {"train": inputs.train.fingerprint(), "heldout": inputs.heldout.fingerprint()},
    }


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
    # Rank 0's view: shared file systems show a fresh folder to some machines later than to others.
    candidates = of_rank_0(CheckpointStore(folder).complete()) if resume == "auto" else [open_checkpoint(Path(resume))]
    for checkpoint in candidates:
        damage = damage_on_any_rank(checkpoint)
        if damage is None:
            return checkpoint
        if resume != "auto":
            raise UserError(f"resume: the checkpoint {resume} is damaged: {damage}; name another, or say --resume auto")
        if rank() == 0:
            log.warning("the checkpoint %s is damaged: %s; trying the one before", checkpoint.folder, damage)
    if candidates and rank() == 0:
        log.warning("no checkpoint in %s is sound: starting from the beginning", folder)
    return None


def same_run(inputs: Inputs, folder: Path, described: Mapping[str, Any]) -> Checkpoint | None:
    """As `find_checkpoint` for a run's folder, once it is held against `described`, the run's identity now.

    Raises:
        UserError: as there, and as in `check_same_run`.
    """
    config = inputs.config
    checkpoint = find_checkpoint(config.resume, folder / CHECKPOINTS)
    if checkpoint is None:
        return None
    check_same_run(checkpoint, described, changed_data=config.resume_changed_data)
    there = checkpoint.state().get("version")
    if there != described["version"] and rank() == 0:
        log.warning("going on from %s, written by %s; this is %s", checkpoint.folder, _named(there), _named(VERSION))
    return checkpoint


def retire_newer(folder: Path, checkpoint: Checkpoint | None) -> None:
    """On rank 0, take out of the way what is newer in a run's folder than the checkpoint that it goes on from: other
    checkpoints, and the model that it ended with before, which would make it a finished run."""
    if rank() == 0:
        store = CheckpointStore(folder / CHECKPOINTS)
        retired = store.retire_after(-1 if checkpoint is None else checkpoint.step)
        if (folder / FINAL).is_dir():
            retired.append(store.retire(folder / FINAL))
        for path in retired:
            log.warning("kept aside, and used no more: %s", path)


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
    if isinstance(state, dict) and now.keys() - {"version"} <= state.keys():
        check_same_run(newest[0], now, changed_data=config.resume_changed_data)
    return now


def check_same_run(checkpoint: Checkpoint, now: Mapping[str, Any], *, changed_data: bool) -> None:
    """Refuse to go on with another configuration, with data that has changed, or from another major version.

    A field that the checkpoint's version did not have is its default there.

    Raises:
        UserError: every field that differs is named, with both values.
    """
    state = checkpoint.state()
    version = state.get("version")
    if version is not None and _major(version) != _major(VERSION):
        raise UserError(
            f"resume: {checkpoint.folder} was written by {_named(version)}, this is {_named(VERSION)}: checkpoints of "
            f"another major version are not read; install sparsepo_dist {_major(version)}, or start a new run"
        )
    differing = [*_differences(now["config"], state["config"]), *_unknown(now["config"], state["config"])]
    if differing:
        raise UserError(
            f"resume: {checkpoint.folder} belongs to another configuration: {'; '.join(differing)}. It was written by "
            f"{_named(version)}. Use the run's own config.yaml as --recipe, or start a new run"
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


def _differences(now: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    defaults = dataclasses.asdict(RunConfig())
    defaults["training"] |= {name.removeprefix("training."): value for name, value in TrainingConfig.DEFAULTS.items()}
    for name, _ in leaves(now):
        value, before = _at(now, name), _at(there, name)
        remark = ""
        if before is _MISSING:
            before, remark = _at(defaults, name), ", the default of what that version did not have"
        if value != before and not _may_differ(name):
            yield f"{name} is {value!r} now and {before!r} there{remark}"


def _unknown(now: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    """Fields of another version may have changed what was computed."""
    for name, _ in leaves(there):
        if _at(now, name) is _MISSING and not _may_differ(name):
            yield f"{name} is {_at(there, name)!r} there, which {_named(VERSION)} does not know"


def _named(version: object) -> str:
    return f"sparsepo_dist {version}" if version is not None else "a sparsepo_dist that did not note its version"


def _major(version: object) -> str:
    return str(version).partition(".")[0]


def _may_differ(name: str) -> bool:
    return any(name.startswith(part) if part.endswith(".") else name == part for part in MAY_DIFFER)


_MISSING = object()


def _at(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _MISSING
        value = value[name]
    return list(value) if isinstance(value, tuple) else value

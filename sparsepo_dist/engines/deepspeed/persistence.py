"""The policy engine's part of a checkpoint: what is trained, its optimizer and its counters, by DeepSpeed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.checkpoint.constants import (
    UNIVERSAL_CHECKPOINT_INFO,
    UNIVERSAL_CHECKPOINT_VERSION_KEY,
    UNIVERSAL_CHECKPOINT_VERSION_VALUE,
)
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from sparsepo_dist.engines.deepspeed.distributed import lost_peer
from sparsepo_dist.errors import UserError, unreadable

TAG = "engine"
# What DeepSpeed's files hold besides tensors, numbers and strings.
_DEEPSPEED_TYPES = [LossScaler, ZeroStageEnum, fragment_address]


def save_engine(engine: DeepSpeedEngine, folder: Path) -> None:
    """Write folder/engine/, frozen weights left out. Every rank must call this, with no prefetch under way."""
    engine.save_checkpoint(
        str(folder),
        tag=TAG,
        # What DeepSpeed's converter for another number of ranks asks for.
        client_state={
            UNIVERSAL_CHECKPOINT_INFO: {UNIVERSAL_CHECKPOINT_VERSION_KEY: UNIVERSAL_CHECKPOINT_VERSION_VALUE}
        },
        save_latest=False,
        exclude_frozen_parameters=True,
    )


def load_engine(engine: DeepSpeedEngine, folder: Path, *, universal: bool = False) -> None:
    """Put back what `save_engine` wrote, into an engine that was built alike and has not run yet.

    Every rank must call this.

    Args:
        engine: the policy's.
        folder: what `save_engine` or, if `universal`, `universal.Conversion` wrote to.
        universal: whether the files are for any number of ranks.

    Raises:
        UserError: they are of another model, or of another number of ranks.
        RuntimeError: another rank is gone.
    """
    # The groups' settings are the run's own; loading replaces them by what was current when the file was written,
    # for universal files by those of the first group.
    settings = [{key: value for key, value in group.items() if key != "params"} for group in _groups(engine)]
    try:
        with only_tensors(), _universal(engine, universal):
            path, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    except (RuntimeError, KeyError, AssertionError, pickle.UnpicklingError) as error:
        if isinstance(error, RuntimeError) and lost_peer(error):
            raise
        raise UserError(f"resume: {folder} does not fit this model or these ranks: {unreadable(error)}") from None
    if path is None:
        raise UserError(f"resume: {folder} holds nothing that DeepSpeed could load")
    for group, kept in zip(_groups(engine), settings, strict=True):
        group.update(kept)
    if universal:
        _separate_steps(engine)


@contextmanager
def only_tensors() -> Iterator[None]:
    """DeepSpeed unpickles whatever a file holds; here a file with code in it is refused instead of run."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals(_DEEPSPEED_TYPES):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _universal(engine: DeepSpeedEngine, universal: bool) -> Iterator[None]:
    settings = engine._config
    before, settings.load_universal_checkpoint = settings.load_universal_checkpoint, universal
    try:
        yield
    finally:
        settings.load_universal_checkpoint = before


def _separate_steps(engine: DeepSpeedEngine) -> None:
    """DeepSpeed gives all sub-groups one tensor for their step, which Adam then counts up once for each of them."""
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    # torch's fused and capturable kernels read it where the parameter is
    beside = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for parameter, state in optimizer.state.items():
        if torch.is_tensor(state.get("step")):
            device = parameter.device if beside else "cpu"
            state["step"] = state["step"].to(device, torch.float32, copy=True)


def _groups(engine: DeepSpeedEngine) -> list[dict[str, object]]:
    groups: list[dict[str, object]] = engine.optimizer.param_groups
    return groups

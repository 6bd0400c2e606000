"""A training run from its configuration: check everything that can be checked alone, then join the other ranks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from transformers.utils.logging import disable_progress_bar

from sparsepo_dist.assembly import build_trainer
from sparsepo_dist.config import RunConfig
from sparsepo_dist.engines import distributed
from sparsepo_dist.engines.saving import save_final
from sparsepo_dist.errors import UserError
from sparsepo_dist.inputs import Inputs, load_inputs
from sparsepo_dist.resumption import FOLDER, check_same_run, find_checkpoint, identity
from sparsepo_dist.training.checkpoint_store import Checkpoint
from sparsepo_dist.training.checkpointer import Checkpointer
from sparsepo_dist.training.loop import TrainingLoop
from sparsepo_dist.training.token_table import write_token_table

SHOWN_PAIRS = 4


def run(config: RunConfig) -> Path:
    """Train, save and describe; the run's folder.

    Raises:
        UserError: anything the user can mend, raised on every rank before the first collective.
        StoppedError: a signal asked to stop, and a checkpoint is complete.
        RunError: the run cannot go on.
    """
    distributed.prepare_environment()
    if distributed.rank() != 0:
        disable_progress_bar()
    inputs = load_inputs(config)
    distributed.initialise()
    folder, checkpoint = open_run(inputs)
    trainer = build_trainer(inputs, folder)
    checkpointer = Checkpointer(trainer.policy, folder / FOLDER, config.checkpoints)
    TrainingLoop(trainer, checkpointer, identity(inputs, folder)).run(checkpoint)
    save_final(trainer.policy, inputs.tokenizer, folder / "final")
    shown = (inputs.heldout or inputs.train)[:SHOWN_PAIRS]
    beta = inputs.config.objective.beta
    write_token_table(trainer, shown, inputs.tokenizer, config.data, beta, folder / "tokens.jsonl")
    return folder


def open_run(inputs: Inputs) -> tuple[Path, Checkpoint | None]:
    """Rank 0 makes the run's folder, or finds the checkpoint to go on from; every rank learns of both.

    Raises:
        UserError: the folder holds something already, or the checkpoint is of another run (on every rank).
    """
    told: list[Any] = [None, None, None]
    if distributed.rank() == 0:
        try:
            told[:2] = _open_on_rank_0(inputs)
        except UserError as error:
            told[2] = str(error)
    if distributed.world_size() > 1:
        dist.broadcast_object_list(told, src=0)
    if told[2] is not None:
        raise UserError(told[2])
    return told[0], told[1]


def _open_on_rank_0(inputs: Inputs) -> tuple[Path, Checkpoint | None]:
    config = inputs.config
    folder = _folder(config)
    checkpoint = find_checkpoint(config.resume, folder)
    described = identity(inputs, folder)
    if checkpoint is not None:
        check_same_run(checkpoint, described, changed_data=config.resume_changed_data)
        return folder, checkpoint
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if config.resume is None and any(folder.iterdir()):
            raise UserError(
                f"output_dir: {folder} is not empty; name another folder, or go on in it with --resume auto"
            )
        (folder / "config.yaml").write_text(yaml.safe_dump(described["config"], sort_keys=False), encoding="utf-8")
        (folder / "metrics.jsonl").unlink(missing_ok=True)  # of a run that was stopped before its first checkpoint
    except OSError as error:
        raise UserError(f"output_dir: {folder} cannot be written: {error.strerror}") from None
    return folder, None


def _folder(config: RunConfig) -> Path:
    if config.resume not in (None, "auto"):
        folder = Path(config.resume).parent.parent
        if config.output_dir is not None and Path(config.output_dir).resolve() != folder.resolve():
            raise UserError(
                f"resume: {config.resume} is a checkpoint of {folder}, but output_dir is {config.output_dir}"
            )
        return folder
    if config.resume == "auto" and config.output_dir is None:
        raise UserError("resume: auto needs --output_dir, the folder of the run to go on with")
    return Path(config.output_dir or f"runs/{config.objective.name}-{time.strftime('%Y%m%d-%H%M%S')}")

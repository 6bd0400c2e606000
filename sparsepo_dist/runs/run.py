"""A training run from its configuration: check everything that can be checked alone, then join the other ranks."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import IO, Any

import yaml
from transformers.utils.logging import disable_progress_bar

from sparsepo_dist.data.tokens.showing import show_pairs
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.engines.deepspeed.environment import prepare_environment
from sparsepo_dist.engines.policy import PolicyEngine
from sparsepo_dist.engines.saving import save_final
from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.agreement import joined
from sparsepo_dist.runs.assembly import build_trainer
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.finishing import check_room, check_unfinished
from sparsepo_dist.runs.folder import CHECKPOINTS, EXPORTED, FINAL, check_output_dir, check_shared, claim, run_folder
from sparsepo_dist.runs.inputs import Inputs, load_inputs
from sparsepo_dist.runs.resumption import check_newest, identity, retire_newer, same_run
from sparsepo_dist.training.checkpoints.checkpointer import Checkpointer
from sparsepo_dist.training.checkpoints.store import CheckpointStore, step_name
from sparsepo_dist.training.loop import TrainingLoop
from sparsepo_dist.training.mask_start import start_masks
from sparsepo_dist.training.supervision.control import StopRequest
from sparsepo_dist.training.supervision.progress import Progress
from sparsepo_dist.training.token_table import write_token_table

SHOWN_PAIRS = 4


def run(config: RunConfig) -> Path:
    """Train, save and describe; the run's folder.

    Raises:
        UserError: anything the user can mend, raised on every rank before the first collective.
        FinishedError: it has been finished before.
        StoppedError: a signal asked to stop, and a checkpoint is complete.
        RunError: the run cannot go on.
    """
    stop = StopRequest()
    with stop.listening():
        prepare_environment()
        if distributed.rank() != 0:
            disable_progress_bar()
        check_output_dir(config)
        inputs = load_inputs(config)
        described = check_newest(inputs) or identity(inputs, run_folder(config))
        progress = Progress()
        with joined(inputs, described, progress) as watchdog:
            check_unfinished(config)
            folder, lock = open_run(config)
            watchdog.folder, described["config"]["output_dir"] = folder, str(folder)
            progress.left = CheckpointStore(folder / CHECKPOINTS).left
            try:
                _train(inputs, folder, described, progress, stop)
            finally:
                if lock is not None:
                    lock.close()
    return folder


def _train(inputs: Inputs, folder: Path, described: dict[str, Any], progress: Progress, stop: StopRequest) -> None:
    config = inputs.config
    progress.at("checking that all ranks share the folder")
    check_shared(folder)
    progress.at("checking the checkpoints")
    checkpoint = same_run(inputs, folder, described)
    if distributed.rank() == 0:
        show_pairs(inputs.train, inputs.tokenizer, config.data)
    trainer = build_trainer(inputs, folder, progress)
    checkpointer = Checkpointer(trainer.policy, folder / CHECKPOINTS, config.checkpoints)
    check_room(trainer, checkpointer, 0 if checkpoint is None else checkpoint.step)
    if checkpoint is None:
        start_masks(trainer, config.masks)
    retire_newer(folder, checkpoint)
    if checkpoint is None:
        write_config(described["config"], folder)
    write_origins(inputs, folder)
    save = partial(save_final, trainer.policy, inputs.tokenizer, folder / FINAL)
    export = partial(_export, trainer.policy, inputs, folder, described)
    TrainingLoop(trainer, checkpointer, described, save, export, stop).run(checkpoint)
    progress.at("looking at single tokens")
    shown = (inputs.heldout or inputs.train)[:SHOWN_PAIRS]
    beta = config.objective.beta
    write_token_table(trainer, shown, inputs.tokenizer, config.data, beta, folder / "tokens.jsonl")


def _export(policy: PolicyEngine, inputs: Inputs, folder: Path, described: dict[str, Any], step: int) -> None:
    trained = {"run": folder.name, "step": step, "config": described["config"]}
    save_final(policy, inputs.tokenizer, folder / EXPORTED / step_name(step), trained)


def open_run(config: RunConfig) -> tuple[Path, IO[str] | None]:
    """Rank 0 makes and claims the run's folder; every rank learns its name. The lock is rank 0's.

    Raises:
        UserError: the folder cannot be used (on every rank).
    """
    folder, lock, refusal = run_folder(config), None, None
    if distributed.rank() == 0:
        try:
            folder, lock = claim(config)
        except UserError as error:
            refusal = str(error)
    folder, refusal = distributed.of_rank_0((folder, refusal))
    if refusal is not None:
        raise UserError(refusal)
    return folder, lock


def write_origins(inputs: Inputs, folder: Path) -> None:
    """sources.json, from rank 0: which pairs came from where; also of a run that goes on, whose data may be others."""
    if distributed.rank() == 0:
        told = {"mixture_seed": inputs.config.data.mixture_seed, **inputs.origins}
        (folder / "sources.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def write_config(resolved: dict[str, Any], folder: Path) -> None:
    """config.yaml, from rank 0, once nothing of it was refused; a run that was stopped before its first checkpoint
    leaves nothing behind."""
    if distributed.rank() == 0:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")

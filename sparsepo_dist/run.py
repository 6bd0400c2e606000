"""A training run from its configuration: check everything that can be checked alone, then join the other ranks."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from transformers.utils.logging import disable_progress_bar

from sparsepo_dist.assembly import build_trainer
from sparsepo_dist.config import RunConfig
from sparsepo_dist.engines import distributed
from sparsepo_dist.engines.saving import save_final
from sparsepo_dist.errors import UserError
from sparsepo_dist.inputs import Inputs, load_inputs
from sparsepo_dist.training.token_table import write_token_table

SHOWN_PAIRS = 4


def run(config: RunConfig) -> Path:
    """Train, save and describe; the run's folder.

    Raises:
        UserError: anything the user can mend, raised on every rank before the first collective.
    """
    distributed.prepare_environment()
    if distributed.rank() != 0:
        disable_progress_bar()
    inputs = load_inputs(config)
    distributed.initialise()
    folder = create_run_folder(inputs)
    trainer = build_trainer(inputs, folder)
    write_config(inputs, folder)
    trainer.fit()
    save_final(trainer.policy, inputs.tokenizer, folder / "final")
    shown = (inputs.heldout or inputs.train)[:SHOWN_PAIRS]
    beta = inputs.config.objective.beta
    write_token_table(trainer, shown, inputs.tokenizer, config.data, beta, folder / "tokens.jsonl")
    return folder


def create_run_folder(inputs: Inputs) -> Path:
    """Rank 0 makes the folder; every rank learns its name.

    Raises:
        UserError: the folder holds something already (on every rank).
    """
    config = inputs.config
    default = f"runs/{config.objective.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    told: list[Any] = [config.output_dir or default, None]
    if distributed.rank() == 0:
        folder = Path(told[0])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise UserError(f"output_dir: {folder} is not empty; name another folder")
            if not os.access(folder, os.W_OK):
                raise UserError(f"output_dir: {folder} cannot be written")
        except UserError as error:
            told[1] = str(error)
        except OSError as error:
            told[1] = f"output_dir: {folder} cannot be written: {error.strerror}"
    if distributed.world_size() > 1:
        dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise UserError(told[1])
    return Path(told[0])


def write_config(inputs: Inputs, folder: Path) -> None:
    """config.yaml, from rank 0: as resolved, once nothing of it was refused."""
    if distributed.rank() != 0:
        return
    resolved = dataclasses.asdict(inputs.config) | {"output_dir": str(folder)}
    for name, value in inputs.agreed.items():
        resolved["training"][name.removeprefix("training.")] = list(value) if "betas" in name else value
    resolved["training"]["precision"] = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(inputs.dtype, "fp32")
    (folder / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")

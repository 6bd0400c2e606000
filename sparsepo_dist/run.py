"""A training run from its configuration: check everything that can be checked alone, then join the other ranks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from sparsepo_dist.config import RunConfig
from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.tokenize import load_tokenized
from sparsepo_dist.engines import distributed
from sparsepo_dist.engines.ds_config import (
    agree,
    engine_config,
    load_ds_config,
    most_pairs_per_micro_batch,
    precision,
    reference_config,
    zero_stage,
)
from sparsepo_dist.engines.loading import check_window, load_config, load_model, load_tokenizer
from sparsepo_dist.engines.policy import PolicyEngine, PolicyModel, parameter_groups
from sparsepo_dist.engines.reference import ReferenceEngine
from sparsepo_dist.engines.saving import save_final
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskHeads
from sparsepo_dist.objectives import Objective, build_objective
from sparsepo_dist.training.batches import MicroBatches
from sparsepo_dist.training.token_table import write_token_table
from sparsepo_dist.training.trainer import Trainer

SHOWN_PAIRS = 4


@dataclass
class Inputs:
    """What a run needs that every rank can check by itself, before any of them waits for another."""

    config: RunConfig
    objective: Objective
    model_config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    train: Sequence[TokenizedPair]
    heldout: Sequence[TokenizedPair]
    ds_config: dict[str, Any]
    agreed: dict[str, Any]
    dtype: torch.dtype
    device: torch.device


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
    trainer.fit()
    save_final(trainer.policy, inputs.tokenizer, folder / "final")
    shown = (inputs.heldout or inputs.train)[:SHOWN_PAIRS]
    write_token_table(trainer, shown, inputs.tokenizer, config.data, config.objective.beta, folder / "tokens.jsonl")
    return folder


def load_inputs(config: RunConfig) -> Inputs:
    """Validate the configuration, read the data and the ds_config; nothing here talks to other ranks."""
    config.validate()
    objective = build_objective(config.objective)
    config = resolve_builtin(config)
    device = torch.device("cuda", distributed.local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    ds_config = load_ds_config(config.ds_config)
    agreed = agree(ds_config, config.training.shared(), config.training.DEFAULTS)
    dtype = precision(ds_config, config.training.precision, device)
    model_config = load_config(config.model.path, trust_remote_code=config.model.trust_remote_code)
    check_window(model_config, config.data.max_length)
    tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
    train, heldout = _load_pairs(config, tokenizer)
    if not objective.requirements.rejected:
        train, heldout = ([dataclasses.replace(p, rejected_ids=()) for p in part] for part in (train, heldout))
    return Inputs(config, objective, model_config, tokenizer, train, heldout, ds_config, agreed, dtype, device)


def resolve_builtin(config: RunConfig) -> RunConfig:
    """Replace `builtin:` names by files, making those that are missing; other ranks of the machine wait for them."""
    model, data = config.model, config.data
    if not (model.path.startswith("builtin:") or data.train.startswith("builtin:")):
        return config
    from sparsepo_dist.sentiment.pairs import sentiment_files

    files = sentiment_files()
    names = {"builtin:smollm2-135m-instruct": str(files.model), "builtin:sentiment": str(files.train)}
    for field, value in (("model.path", model.path), ("data.train", data.train)):
        if value.startswith("builtin:") and value not in names:
            raise UserError(f"{field}: {value} is not built in; there are {', '.join(names)}")
    heldout = data.heldout
    if data.train == "builtin:sentiment" and heldout is None and not data.heldout_pairs:
        heldout = str(files.heldout)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(model, path=names.get(model.path, model.path)),
        data=dataclasses.replace(data, train=names.get(data.train, data.train), heldout=heldout),
    )


def _load_pairs(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[TokenizedPair], list[TokenizedPair]]:
    data, progress = config.data, distributed.rank() == 0
    train = load_tokenized(data.train, tokenizer, data, progress=progress)
    if data.heldout is not None:
        return train, load_tokenized(data.heldout, tokenizer, data, progress=progress)
    if data.heldout_pairs >= len(train):
        raise UserError(f"data.heldout_pairs: {data.heldout_pairs} leaves no training pair of {len(train)}")
    cut = len(train) - data.heldout_pairs
    return train[:cut], train[cut:]


def create_run_folder(inputs: Inputs) -> Path:
    """Rank 0 makes the folder and writes the resolved configuration; every rank learns its name.

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
            resolved = dataclasses.asdict(config) | {"output_dir": str(folder)}
            for name, value in inputs.agreed.items():
                resolved["training"][name.removeprefix("training.")] = list(value) if "betas" in name else value
            resolved["training"]["precision"] = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(
                inputs.dtype, "fp32"
            )
            (folder / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
        except UserError as error:
            told[1] = str(error)
        except OSError as error:
            told[1] = f"output_dir: {folder} cannot be written: {error.strerror}"
    if distributed.world_size() > 1:
        dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise UserError(told[1])
    return Path(told[0])


def build_trainer(inputs: Inputs, folder: Path) -> Trainer:
    """Reference engine, policy engine and trainer. Every rank must call this."""
    config, needs = inputs.config, inputs.objective.requirements
    engine = engine_config(
        inputs.ds_config, inputs.agreed, inputs.dtype, inputs.model_config.hidden_size, folder / "monitor"
    )
    reference = _build_reference(inputs, engine) if needs.reference else None
    torch.manual_seed(config.training.seed)
    heads = None
    if needs.masks == "learned":
        assert reference is not None
        heads = MaskHeads(reference.layers, reference.width, config.masks).to(inputs.dtype)
    model = _load_policy(inputs, engine)
    module = PolicyModel(model, needs, heads, reference.take_head() if reference else None, config.ops)
    groups = parameter_groups(
        module,
        learning_rate=inputs.agreed["training.learning_rate"],
        weight_decay=inputs.agreed["training.weight_decay"],
        betas=inputs.agreed["training.betas"],
        eps=inputs.agreed["training.eps"],
        masks=config.masks,
    )
    policy = PolicyEngine(module, groups, engine, config.masks, reference.site_types if reference else [])
    limit = most_pairs_per_micro_batch(inputs.ds_config)
    batches = MicroBatches(inputs.train, config.data, inputs.device, limit)
    heldout = dataclasses.replace(batches, pairs=inputs.heldout) if inputs.heldout else None
    return Trainer(
        policy, reference, inputs.objective, batches, heldout, config.training,
        inputs.agreed["training.pairs_per_step"], folder,
    )  # fmt: skip


def _build_reference(inputs: Inputs, engine: dict[str, Any]) -> ReferenceEngine:
    config = inputs.config
    placement = config.reference.placement
    ds_config = None if placement == "replicated" else reference_config(engine, placement)
    path = config.reference.path or config.model.path
    model_config = load_config(path, trust_remote_code=config.model.trust_remote_code)
    if model_config.vocab_size != inputs.model_config.vocab_size:
        raise UserError(
            f"reference.path {path} has a vocabulary of {model_config.vocab_size}, the policy "
            f"{config.model.path} one of {inputs.model_config.vocab_size}; divergences need the same"
        )
    model = load_model(
        path,
        model_config,
        dtype=inputs.dtype,
        layout=config.data.layout,
        zero3=ds_config,
        trust_remote_code=config.model.trust_remote_code,
    )
    return ReferenceEngine(model, placement, ds_config, inputs.objective.requirements, config.masks, inputs.device)


def _load_policy(inputs: Inputs, engine: dict[str, Any]) -> PreTrainedModel:
    config = inputs.config
    model = load_model(
        config.model.path,
        inputs.model_config,
        dtype=inputs.dtype,
        layout=config.data.layout,
        zero3=engine if zero_stage(engine) == 3 else None,
        disable_dropout=config.model.disable_dropout,
        trust_remote_code=config.model.trust_remote_code,
    )
    if config.model.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model

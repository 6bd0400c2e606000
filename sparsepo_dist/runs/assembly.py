"""Engines and trainer from checked inputs: what is loaded where, and what each is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sparsepo_dist.contracts import OracleRole
from sparsepo_dist.engines.activation_checkpointing import checkpoint_activations
from sparsepo_dist.engines.adapters.lora import add_adapters, add_frozen_adapter
from sparsepo_dist.engines.adapters.saved_modules import head_of
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.config import named
from sparsepo_dist.engines.decoder.backbone import backbone
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.decoder.logits import logit_map
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.engines.deepspeed.ds_config import (
    engine_config,
    most_pairs_per_micro_batch,
    reference_config,
    zero_stage,
)
from sparsepo_dist.engines.groups import parameter_groups
from sparsepo_dist.engines.policy import OwnReference, PolicyEngine, PolicyModel
from sparsepo_dist.engines.reference.cached import CachedReference, Reference
from sparsepo_dist.engines.reference.engine import ReferenceEngine, lends_head
from sparsepo_dist.engines.reference.oracles import Oracle
from sparsepo_dist.engines.sequence.group import token_share
from sparsepo_dist.masks import Readings, ReferenceReadings, TokenMasker
from sparsepo_dist.ops import Head
from sparsepo_dist.runs.inputs import Inputs
from sparsepo_dist.training.batches import MicroBatches
from sparsepo_dist.training.model_check import check_models_alone
from sparsepo_dist.training.supervision.progress import Progress
from sparsepo_dist.training.trainer import Trainer


def build_trainer(inputs: Inputs, folder: Path, progress: Progress | None = None) -> Trainer:
    """Reference, oracles' and policy engines, and the trainer. Every rank must call this.

    Args:
        folder: the run's.
        progress: what a watchdog looks at, from here to the run's end.

    Raises:
        UserError: a model is incomplete, or an adapter, attention or mask does not fit it, or its numbers are wrong.
    """
    config, needs = inputs.config, inputs.objective.requirements
    progress = progress or Progress()
    engine = filled_config(inputs, folder)
    reference: Reference | None = None
    if inputs.cache is not None:
        reference = CachedReference(
            inputs.cache,
            head_leaves=needs.divergence is not None,
            mask_reads_last="learned" in inputs.mask_sources and config.masks.layers == "last",
            device=inputs.device,
        )
    elif needs.reference and not config.models.reference_is_policy:
        progress.at("loading the reference")
        reference = build_reference(inputs, engine)
    oracles = {} if inputs.cache is not None else build_oracles(inputs, engine, progress)
    progress.at("loading the policy")
    module = _build_policy(inputs, engine, reference)
    groups = parameter_groups(
        module,
        learning_rate=inputs.agreed["training.learning_rate"],
        weight_decay=inputs.agreed["training.weight_decay"],
        betas=inputs.agreed["training.betas"],
        eps=inputs.agreed["training.eps"],
        masks=config.masks,
    )
    progress.at("building the policy's engine")
    policy = PolicyEngine(module, groups, engine)
    # All ranks drew the same until here; noise that they share would not average out.
    torch.manual_seed(config.training.seed + 1 + distributed.rank())
    limit = most_pairs_per_micro_batch(inputs.ds_config)
    share = token_share(config.training.sequence_parallel, hang_minutes=config.training.hang_minutes)
    batches = MicroBatches(inputs.train, config.data, inputs.device, limit, share)
    heldout = dataclasses.replace(batches, pairs=inputs.heldout) if inputs.heldout else None
    frozen = [*([] if reference is None else [reference]), *(oracle.engine for oracle in oracles.values())]
    gathering = any(engine.gathers for engine in frozen)
    # Of several micro-batches in one pass other response tokens would lie on a rank than of each alone.
    per_pass = config.micro_batches_per_pass if gathering and share is None else 1
    trainer = Trainer(
        policy, reference, oracles, inputs.objective, batches, heldout, config.training,
        inputs.agreed["training.pairs_per_step"], folder,
        per_pass, progress,
    )  # fmt: skip
    if config.model.check:
        check_models_alone(trainer, config.models, inputs.tokenizer, inputs.dtype)
    for one in frozen:
        if isinstance(one, ReferenceEngine):
            one.release_model()
    return trainer


def filled_config(inputs: Inputs, folder: Path) -> dict[str, Any]:
    """The ds_config that the policy's engine gets, and frozen engines' is made from; `folder` is the run's.

    Raises:
        UserError: an "auto" that nothing fills.
    """
    width = text_config(inputs.model_config).hidden_size
    return engine_config(inputs.ds_config, inputs.agreed, inputs.dtype, width, folder / "monitor")


def _build_policy(inputs: Inputs, engine: dict[str, Any], reference: Reference | None) -> PolicyModel:
    config, needs = inputs.config, inputs.objective.requirements
    model = load_model(
        config.model.path,
        inputs.model_config,
        dtype=inputs.dtype,
        layout=config.data.settled_layout,
        zero3=engine if zero_stage(engine) == 3 else None,
        quantised=config.model.adapter == "qlora",
        disable_dropout=config.model.disable_dropout,
        trust_remote_code=config.model.trust_remote_code,
        attention=config.model.attention,
        device=inputs.device,
    )
    beside: Head | OwnReference | None = None if reference is None else reference.take_head()
    readings: Readings | None = None if reference is None else reference.readings
    if config.model.adapter != "none":
        # Before each part that is drawn, here and below: what comes first differs between set-ups.
        torch.manual_seed(config.training.seed)
        adapter = add_adapters(
            model, config.lora, inputs.dtype, base=config.model.path, start=config.model.adapter_path,
            reference=config.reference.adapter_path if reference is None else None,
        )  # fmt: skip
        if needs.reference and reference is None:
            head, map = head_of(model, adapter), logit_map(model)
            own = ReferenceReadings(backbone(model), head, map, inputs.mask_sources, config.masks)
            readings, beside = own, OwnReference(adapter, own)
    checkpoint_activations(model, config.model.activation_checkpointing)
    masker = None
    if inputs.mask_sources:
        torch.manual_seed(config.training.seed)
        masker = TokenMasker(inputs.mask_sources, config.masks, readings, config.training.seed).to(inputs.dtype)
    return PolicyModel(model, needs, masker, beside, config.ops)


def build_reference(inputs: Inputs, engine: dict[str, Any]) -> ReferenceEngine:
    """The reference in an engine of its own. Every rank must call this.

    Raises:
        UserError: the model is incomplete, or an adapter, attention or mask does not fit it.
    """
    config = inputs.config
    path = config.reference.path or config.model.path
    placement = config.models.placement(distributed.world_size())
    return _frozen_engine(inputs, engine, "reference", path, placement, config.reference.adapter_path)


def build_oracles(inputs: Inputs, engine: dict[str, Any], progress: Progress) -> dict[OracleRole, Oracle]:
    """The oracles that the run's masks ask, each in an engine of its own. Every rank must call this.

    Raises:
        UserError: as `build_reference`.
    """
    built: dict[OracleRole, Oracle] = {}
    for role, oracle in inputs.config.models.oracles.items():
        progress.at(f"loading the {named(role)}")
        assert oracle.path is not None
        placement = inputs.config.models.oracle_placement(role, distributed.world_size())
        own = _frozen_engine(inputs, engine, role, oracle.path, placement, None)
        built[role] = Oracle(own, inputs.prefixes[role])
    return built


def _frozen_engine(
    inputs: Inputs, engine: dict[str, Any], role: str, path: str, placement: Any, adapter: str | None
) -> ReferenceEngine:
    config, is_reference = inputs.config, role == "reference"
    ds_config = None if placement == "replicated" else reference_config(engine, placement)
    model: PreTrainedModel = load_model(
        path,
        inputs.frozen_configs.get(role, inputs.model_config),
        dtype=inputs.dtype,
        layout=config.data.settled_layout,
        zero3=ds_config,
        trust_remote_code=config.model.trust_remote_code,
        attention=config.model.attention,
        device=inputs.device,
    )
    if adapter is not None:
        add_frozen_adapter(model, adapter, inputs.dtype)
    return ReferenceEngine(
        model,
        placement,
        ds_config,
        sources=inputs.mask_sources if is_reference else (),
        masks=config.masks,
        head_leaves=is_reference and inputs.objective.requirements.divergence is not None,
        head_is_lent=lends_head(placement, zero_stage(engine)),
        ops=config.ops,
        device=inputs.device,
    )

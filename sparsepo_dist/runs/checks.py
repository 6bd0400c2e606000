"""Whether the models of a run are there and can be built as configured, before any is loaded: weights, adapters, mask
sites, token ids; and whether they can do what the data asks of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sparsepo_dist.contracts import OracleRole, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.adapters.files import (
    SETTINGS,
    adapter_settings,
    adapter_weights,
    is_adapter_folder,
    other_base,
)
from sparsepo_dist.engines.adapters.lora import add_adapters, add_frozen_adapter
from sparsepo_dist.engines.adapters.remarks import adapter_remarks
from sparsepo_dist.engines.attention.choice import AttentionSetting
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.loading import attention_for
from sparsepo_dist.engines.decoder.logits import logit_map
from sparsepo_dist.engines.decoder.router import router_loss
from sparsepo_dist.engines.decoder.structure import checked_structure, make_fake, quiet
from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskSources, ReferenceReadings
from sparsepo_dist.objectives import Requirements
from sparsepo_dist.runs.config import RunConfig

log = logging.getLogger(__name__)


def check_models(
    config: RunConfig,
    needs: Requirements,
    mask_sources: MaskSources,
    models: Mapping[str, PretrainedConfig],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Build every model on the meta device as `assembly` builds it for training; nothing is allocated.

    Args:
        models: by role: model, and reference and oracles where they have a path of their own.
        device: where they will run.

    Raises:
        UserError: an attention that cannot be, damaged or missing weights, logits made in a way of their own, a router
            loss that transformers has not, adapters or targets that do not fit, mask sites that are not there.
    """
    for role, model in models.items():
        dropout = role == "model" and not config.model.disable_dropout
        attention_for(
            model, config.data.settled_layout, dtype, AttentionSetting(config.model.attention, device, dropout)
        )
    built = {role: _structure(config, role, model, dtype) for role, model in models.items()}
    if router_loss(built["model"]) is not None and config.training.sequence_parallel > 1:
        raise UserError(
            "training.sequence_parallel: the loss that balances experts is over all tokens of a micro-batch, of which "
            "a rank has a part; set output_router_logits to false in the model's config.json, or say "
            "--training.sequence_parallel 1"
        )
    maps = {role: logit_map(structure) for role, structure in built.items()}
    policy, own = built["model"], needs.reference and config.models.reference_is_policy
    reference = built.get("reference")
    if reference is None and needs.reference:
        adapted = config.model.adapter != "none" and not own
        reference = _structure(config, "model", models["model"], dtype) if adapted else policy
    with quiet(), torch.device("meta"):
        if config.model.adapter != "none":
            add_adapters(
                policy, config.lora, dtype, base=config.model.path, start=config.model.adapter_path,
                reference=config.reference.adapter_path if own or not needs.reference else None,
            )  # fmt: skip
            remarks = adapter_remarks(policy, config.model, config.lora) if rank() == 0 else []
            for sentence in remarks:
                log.warning("%s", sentence)
        if reference is None:
            return
        if config.reference.adapter_path is not None and not own:
            add_frozen_adapter(reference, config.reference.adapter_path, dtype)
        head = reference.get_output_embeddings()
        map = maps.get("reference", maps["model"])
        readings = ReferenceReadings(backbone(reference), head, map, mask_sources, config.masks)
    if readings.sites and config.masks.site_patterns:
        _check_named_sites(reference, readings, config.data.settled_layout)


def _check_named_sites(reference: PreTrainedModel, readings: ReferenceReadings, layout: Layout) -> None:
    """Run the reference on tensors without data: modules that a pattern names may be no part of it, or of no use.

    Raises:
        UserError: which, and why.
    """
    pair = TokenizedPair(prompt_ids=(0, 0), chosen_ids=(0, 0), rejected_ids=(0, 0))
    batch = pack([pair], [1.0], layout)
    with quiet(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        make_fake(reference)
        with readings.collect(batch.predict_index) as collected:
            try:
                hidden_at(backbone(reference), batch)
            except RuntimeError as error:  # code of a model's own that looks at data
                log.warning("masks.site_patterns are first tried in the first step: %s", str(error).splitlines()[0])
                return
        collected.check()


def _structure(config: RunConfig, role: str, model: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    return checked_structure(
        getattr(config, role).path,
        model,
        dtype,
        config.data.settled_layout,
        field=f"{role}.path",
        trust_remote_code=config.model.trust_remote_code,
    )


def check_token_ids(config: RunConfig, models: Mapping[str, PretrainedConfig], highest: int) -> None:
    """Refuse tokens that were added to a tokenizer and have no row in a model.

    Args:
        models: by role, as in `check_models`.
        highest: the greatest id that pairs have.

    Raises:
        UserError: which model, and that id.
    """
    for part, model in models.items():
        size = text_config(model).vocab_size
        if highest >= size:
            raise UserError(
                f"{part}.path {getattr(config, part).path} has a vocabulary of {size}, but the tokenizer "
                f"gives ids up to {highest}; resize the model's embeddings, or use the tokenizer that belongs to it"
            )


def check_adapter_folders(config: RunConfig) -> None:
    """Refuse adapters where a model is wanted, and folders that hold no adapter where one is.

    Raises:
        UserError: which field, and where the adapter is to be named.
    """
    for part in ("model", "reference", *get_args(OracleRole)):
        field, path = f"{part}.path", getattr(config, part).path
        if path is not None and is_adapter_folder(path):
            remedy = f"sparsepo merge {path} OUTPUT makes a model of both"
            if part in ("model", "reference"):
                remedy = (
                    f"name the model it belongs to with --{field} and the adapter with --{part}.adapter_path {path}"
                )
            if (Path(path) / "config.json").is_file():
                raise UserError(
                    f"{field}: {path} holds a model and an adapter ({SETTINGS}), which would be put on it unasked; "
                    f"move the adapter's files to a folder of their own, or {remedy}"
                )
            raise UserError(f"{field}: {path} holds an adapter, not a model; {remedy}")
    for field, path in (
        ("model.adapter_path", config.model.adapter_path), ("reference.adapter_path", config.reference.adapter_path)
    ):  # fmt: skip
        if path is not None:
            adapter_settings(path, field)
            adapter_weights(path, field)


def warn_of_other_bases(config: RunConfig) -> None:
    """On rank 0, name adapters that say they were made for another model. Raises UserError as `adapter_settings`."""
    if rank() != 0:
        return
    bases = {"model": config.model.path, "reference": config.reference.path or config.model.path}
    told = set()
    for part, base in bases.items():
        path, field = getattr(config, part).adapter_path, f"{part}.adapter_path"
        if path is None or (path, base) in told:
            continue
        told.add((path, base))
        sentence = other_base(path, adapter_settings(path, field).base_model_name_or_path, base, field)
        if sentence is not None:
            log.warning("%s", sentence)


def check_what_is_trained(config: RunConfig, needs: Requirements) -> None:
    """Raise UserError where earlier turns are to be learned by comparison, which have nothing to be compared with, or
    responses change places whose scores must not."""
    if needs.scores and config.data.swap:
        raise UserError(
            f"data.swap: {config.objective.name} needs chosen_score above rejected_score, and swapped it is below in "
            "every pair; leave it out, or take another objective, such as dpo"
        )
    if needs.rejected and config.data.train_on == "all_assistant":
        raise UserError(
            f"data.train_on: all_assistant is for objective.name sft; {config.objective.name} compares responses, and "
            "there is one answer only to earlier turns; leave it out"
        )


def warn_of_turn_end(config: RunConfig, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[TokenizedPair]) -> None:
    """Say where responses end with a token of the chat template at which nothing makes the saved model stop."""
    end = next((pair.chosen_ids[-1] for pair in pairs), None)
    if rank() != 0 or end is None or end not in tokenizer.added_tokens_decoder:
        return
    try:
        known = GenerationConfig.from_pretrained(config.model.path).eos_token_id
    except OSError:  # a model without such a file stops at the tokenizer's EOS
        known = None
    if end in (tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])):
        return
    log.warning(
        "responses end with %s, as the chat template ends an answer, and neither the tokenizer's EOS nor "
        "generation_config.json of %s is that token: write %d into eos_token_id of final/generation_config.json, or "
        "the model goes on behind its answers",
        tokenizer.convert_ids_to_tokens(end), config.model.path, end,
    )  # fmt: skip

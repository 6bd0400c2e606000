"""Whether the models of a run can be built as configured: weights, adapters and mask sites, before any is loaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import PretrainedConfig, PreTrainedModel

from sparsepo_dist.config import RunConfig
from sparsepo_dist.engines.adapters import add_adapters, add_frozen_adapter
from sparsepo_dist.engines.attention_choice import AttentionSetting
from sparsepo_dist.engines.backbone import backbone
from sparsepo_dist.engines.loading import attention_for
from sparsepo_dist.engines.structure import checked_structure, quiet
from sparsepo_dist.masks import MaskKind, ReferenceReadings
from sparsepo_dist.objectives import Requirements


def check_models(
    config: RunConfig,
    needs: Requirements,
    mask_kind: MaskKind | None,
    models: Mapping[str, PretrainedConfig],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Build every model on the meta device as `assembly` builds it for training; nothing is allocated.

    Args:
        models: by role: model, and reference and oracle where they have a path of their own.
        device: where they will run.

    Raises:
        UserError: an attention that cannot be, damaged or missing weights, adapters or targets that do not fit, mask
            sites that are not there.
    """
    for role, model in models.items():
        dropout = role == "model" and not config.model.disable_dropout
        attention_for(model, config.data.layout, dtype, AttentionSetting(config.model.attention, device, dropout))
    built = {role: _structure(config, role, model, dtype) for role, model in models.items()}
    policy, own = built["model"], needs.reference and config.models.placement() == "adapter"
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
        if reference is None:
            return
        if config.reference.adapter_path is not None and not own:
            add_frozen_adapter(reference, config.reference.adapter_path, dtype)
        ReferenceReadings(backbone(reference), reference.get_output_embeddings(), mask_kind, config.masks)


def _structure(config: RunConfig, role: str, model: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    return checked_structure(
        getattr(config, role).path,
        model,
        dtype,
        config.data.layout,
        field=f"{role}.path",
        trust_remote_code=config.model.trust_remote_code,
    )

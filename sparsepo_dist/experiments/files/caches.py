"""What decides the content of a run's reference cache, so that runs of the same content share one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.files.training import ALL_LAYERS

_DECIDE = ("data.", "reference.", "model.path", "model.trust_remote_code", "training.precision", "ds_config")
_DO_NOT = (
    "data.cache", "data.layout", "data.show", "data.tokens_per_micro_batch", "data.workers",
    "reference.cache", "reference.placement", "reference.tokens_per_pass",
)  # fmt: skip


def cached_content(configuration: Mapping[str, Any], asked: bool | str) -> dict[str, Any] | None:
    """Fields of a run's configuration that decide its reference cache, and what is stored; None where the objective
    has no reference.

    Args:
        configuration: dotted fields that are set.
        asked: what the experiment's file says of the cache.

    Raises:
        UserError: the objective or its masks cannot be, or hidden states of all layers are needed and not asked for.
    """
    sections = [
        {name.removeprefix(prefix): value for name, value in configuration.items() if name.startswith(prefix)}
        for prefix in ("objective.", "masks.")
    ]
    stored: dict[str, Any] | None = json.loads(_stored(*(json.dumps(section, sort_keys=True) for section in sections)))
    if stored is None:
        return None
    if "layer_hidden" in stored["fields"] and asked != ALL_LAYERS:
        raise UserError(
            "masks.layers: all needs the hidden states of all layers, which are large; say `cache: all_layers` to have "
            "them cached, or `cache: false`"
        )
    decides = {n: v for n, v in configuration.items() if n.startswith(_DECIDE) and not n.startswith(_DO_NOT)}
    return {**decides, "stored": stored}


@cache
def _stored(objective: str, masks: str) -> str:
    from sparsepo_dist.engines.reference.cached import (
        stored_parts,
    )  # torch, which experiments without caches do not need
    from sparsepo_dist.masks import MaskConfig, resolve_kind
    from sparsepo_dist.objectives import ObjectiveConfig, build_objective

    config, mask_config = ObjectiveConfig(**json.loads(objective)), MaskConfig(**json.loads(masks))
    needs = build_objective(config).requirements
    kind = resolve_kind(config.name, needs.masks, mask_config)
    return json.dumps(stored_parts(needs, kind, mask_config) if needs.reference else None, sort_keys=True)

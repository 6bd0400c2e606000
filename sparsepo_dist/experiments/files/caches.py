"""What decides the content of a run's reference cache, so that runs of the same content share one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.files.remembered import remembered
from sparsepo_dist.experiments.files.runs import Run
from sparsepo_dist.experiments.files.training import ALL_LAYERS

_DECIDE = (
    "data.", "reference.", "model.path", "model.trust_remote_code", "training.precision", "ds_config", "oracle.",
    "oracle_against.",
)  # fmt: skip
_DO_NOT = (
    "data.cache", "data.layout", "data.show", "data.tokens_per_micro_batch", "data.workers",
    "reference.cache", "reference.placement", "reference.tokens_per_pass",
    "oracle.placement", "oracle_against.placement",
)  # fmt: skip
_CODE = ("engines.reference.cached", "masks", "objectives", "runs.parsing")


def cached_content(run: Run, configuration: Mapping[str, Any], asked: bool | str) -> dict[str, Any] | None:
    """Fields of a run's configuration that decide its reference cache, and what is stored; None where the objective
    has no reference.

    Args:
        run: of which it is.
        configuration: dotted fields that are set.
        asked: what the experiment's file says of the cache.

    Raises:
        UserError: the run's fields cannot be, or hidden states of all layers are needed and not asked for.
    """
    decide_parts = {name: value for name, value in configuration.items() if name.startswith(("objective.", "masks."))}
    stored: dict[str, Any] | None = remembered(_CODE, ["stored", decide_parts], lambda: _stored(run))
    if stored is None:
        return None
    if "layer_hidden" in stored["fields"] and asked != ALL_LAYERS:
        raise UserError(
            "masks.layers: all needs the hidden states of all layers, which are large; say `cache: all_layers` to have "
            "them cached, or `cache: false`"
        )
    decides = {n: v for n, v in configuration.items() if n.startswith(_DECIDE) and not n.startswith(_DO_NOT)}
    return {**decides, "stored": stored}


def _stored(run: Run) -> dict[str, Any] | None:
    from sparsepo_dist.engines.reference.cached import stored_parts  # torch, for an answer that is seldom new
    from sparsepo_dist.experiments.files.checks import configuration_of
    from sparsepo_dist.objectives import compose

    config = configuration_of(run)
    objective, sources, masks = compose(config.objective, config.masks)
    needs = objective.requirements
    if not needs.reference:
        return None
    return dict(stored_parts(needs, sources, masks))

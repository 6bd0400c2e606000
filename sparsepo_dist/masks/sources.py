"""Which sources a run's masks are made from, and which options these use."""

from __future__ import annotations

import dataclasses

from sparsepo_dist.contracts import OracleRole
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks.config import MaskConfig, MaskKind

MaskSources = tuple[MaskKind, ...]
"""What the masks of a run are the product of; none where it has no masks."""
OF_REFERENCE: MaskSources = ("learned", "activation", "oracle", "guided")
"""Sources that ask the reference something."""
OF_ORACLE: MaskSources = ("oracle", "guided", "contrast")
"""Sources that ask an oracle for log-probabilities."""
AGAINST: MaskSources = ("contrast",)
"""Sources that ask a second one, which is against the preference."""
BY_REWARD: MaskSources = ("oracle", "guided")
"""Sources that hold an oracle's log-probabilities against the reference's."""
_ONLY_FOR: dict[str, tuple[MaskKind, ...]] = {
    "on": ("learned", "random"),
    "sharing": ("learned", "random"),
    **dict.fromkeys(
        (
            "layers",
            "linears",
            "layer_norm",
            "dropout",
            "binary",
            "learning_rate",
            "weight_decay",
            "init",
            "initial_sparsity",
            "initial_mean",
            "bounded",
            "floor",
        ),
        ("learned",),
    ),
    "random": ("random",),
    **dict.fromkeys(("sites", "site_types", "site_patterns", "normalisation", "clip"), ("activation",)),
    "selected_share": ("oracle",),
    "guidance": ("guided",),
    **dict.fromkeys(("contrast", "contrast_strength", "contrast_bounds"), ("contrast",)),
    "decay_factor": ("decay",),
    "tail_weight": ("tail",),
}


def oracles_of(sources: MaskSources) -> tuple[OracleRole, ...]:
    """The oracles that masks of these sources ask, by their sections of the configuration."""
    asked: dict[OracleRole, MaskSources] = {"oracle": OF_ORACLE, "oracle_against": AGAINST}
    return tuple(role for role, asking in asked.items() if set(asking) & set(sources))


def resolve_sources(needed: str | None, config: MaskConfig, *, objective: str, preferences: bool) -> MaskSources:
    """What masks are made from: the objective's own kind unless the recipe names others.

    Args:
        needed: the kind that the objective is defined with, if any.
        config: the recipe's.
        objective: its name.
        preferences: whether it compares responses; what does not has nothing to weigh.

    Raises:
        UserError: the objective takes no masks, or options do not go together with several sources.
    """
    own: MaskSources = () if needed is None else (needed,)  # type: ignore[assignment]
    if isinstance(config.kind, list):
        sources: MaskSources = tuple(config.kind)
    else:
        sources = own if config.kind == "auto" else (config.kind,)
    if sources and not preferences:
        raise UserError(
            f"masks.kind: {config.kind!r} does not go with objective {objective}, which compares no responses; leave "
            "it out"
        )
    if len(sources) > 1 and config.floor and "learned" in sources:
        raise UserError(
            f"masks.floor: {config.floor} is the least weight of a learned mask, and no other source of masks.kind "
            f"{list(sources)} keeps to it; leave it out"
        )
    return sources


def unused_options(sources: MaskSources, config: MaskConfig) -> list[str]:
    """A sentence for each option that is given and that masks of these sources ignore."""
    plain, unused = MaskConfig(init=config.init), []
    plain.init = "torch"
    here = f"masks are of kind {' and '.join(sources)}" if sources else "objective has no masks"
    for name in (entry.name for entry in dataclasses.fields(config)):
        kinds = _ONLY_FOR.get(name)
        value = getattr(config, name)
        if kinds is not None and not set(kinds) & set(sources) and value != getattr(plain, name):
            unused.append(f"masks.{name}: {value} is for {' and '.join(kinds)} masks, but this run's {here}")
        elif name.startswith("initial_") and config.init != "calibrated" and value != getattr(plain, name):
            unused.append(f"masks.{name}: {value} is for masks.init calibrated, but it is {config.init}")
    return unused

"""Maps an objective's name to its construction."""

from __future__ import annotations

from collections.abc import Callable

from sparsepo_dist.errors import UserError
from sparsepo_dist.objectives.base import Objective, ObjectiveConfig
from sparsepo_dist.objectives.dpo import DPO
from sparsepo_dist.objectives.sparsepo import SparsePO
from sparsepo_dist.objectives.supervised import SFT
from sparsepo_dist.objectives.tdpo import TDPO

_BUILDERS: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "sparsepo": lambda c: SparsePO(c.beta, c.divergence, "learned", c.l1_reward, c.l1_divergence),
    "mapo": lambda c: SparsePO(c.beta, c.divergence, "activation"),
    "tdpo1": lambda c: TDPO(c.beta),
    "tdpo2": lambda c: TDPO(c.beta, c.alpha),
    "dpo": lambda c: DPO(c.beta),
    "sft": lambda c: SFT(),
}


def objective_names() -> list[str]:
    """Every registered name."""
    return list(_BUILDERS)


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective a configuration names.

    Raises:
        UserError: the name is unknown, or a constant is out of range.
    """
    if config.name not in _BUILDERS:
        raise UserError(f"objective.name: {config.name!r} is not one of {', '.join(_BUILDERS)}")
    if config.beta <= 0:
        raise UserError(f"objective.beta: {config.beta} must be greater than 0")
    for name in ("alpha", "l1_reward", "l1_divergence"):
        if getattr(config, name) < 0:
            raise UserError(f"objective.{name}: {getattr(config, name)} must not be negative")
    return _BUILDERS[config.name](config)

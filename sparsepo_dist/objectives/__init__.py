"""Losses of preference optimisation as pure functions of per-token statistics and masks."""

from typing import TYPE_CHECKING

from sparsepo_dist.exports import on_demand

if TYPE_CHECKING:
    from sparsepo_dist.objectives.base import BatchObjective, Objective, ObjectiveOutput, Requirements
    from sparsepo_dist.objectives.config import ObjectiveConfig
    from sparsepo_dist.objectives.masked import Composed, compose
    from sparsepo_dist.objectives.registry import build_objective, objective_names, unused_fields, used_fields
else:
    __getattr__ = on_demand(
        __name__,
        {
            "base": "BatchObjective Objective ObjectiveOutput Requirements",
            "config": "ObjectiveConfig",
            "masked": "Composed compose",
            "registry": "build_objective objective_names unused_fields used_fields",
        },
    )

__all__ = [
    "BatchObjective",
    "Composed",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveOutput",
    "Requirements",
    "build_objective",
    "compose",
    "objective_names",
    "unused_fields",
    "used_fields",
]

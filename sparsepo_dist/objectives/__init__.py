"""Losses of preference optimisation as pure functions of per-token statistics and masks."""

from sparsepo_dist.objectives.base import BatchObjective, Objective, ObjectiveConfig, ObjectiveOutput, Requirements
from sparsepo_dist.objectives.masked import Composed, compose
from sparsepo_dist.objectives.registry import build_objective, objective_names, unused_fields, used_fields

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

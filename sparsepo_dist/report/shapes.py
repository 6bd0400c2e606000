"""What a run's files must hold for a report to be drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsepo_dist.errors import shortened

Shape = Any
"""A type or several, a list with the shape of its items, or an object with the shapes of its fields."""
NUMBER = (int, float)
ANY = object

_SIDE: Shape = {"mean_reward": NUMBER, "examples": [{"prompt": str, "response": str, "reward": NUMBER}]}
EVALUATION: Shape = {
    "scorer": str, "prompts": int, "samples_per_prompt": int, "response_kl": NUMBER, "sparsity": dict,
    "reference": _SIDE, "trained": _SIDE, "difference": {"mean": NUMBER, "low": NUMBER, "high": NUMBER},
}  # fmt: skip
CONFIG: Shape = {
    "model": {"path": str}, "data": {"train": (str, list)}, "objective": {"name": str, "beta": ANY},
    "training": dict.fromkeys(("pairs_per_step", "learning_rate", "schedule", "precision", "seed"), ANY),
}  # fmt: skip
TOKENS: Shape = {"pair": int, "branch": str, "prompt": str, "tokens": [str]}
METRICS: Shape = {"step": int, "split": str}
HISTOGRAM = "histogram/"
"""Metrics of this prefix are lists of counts, all others numbers."""


def check(value: Any, shape: Shape, name: str = "") -> None:
    """Hold a value of a JSON or YAML file against a shape.

    Raises:
        ValueError: the field that is missing or of another type.
    """
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{name or 'it'} must be an object, found {shortened(repr(value))}")
        for field, inner in shape.items():
            if field not in value:
                raise ValueError(f"{name}{'.' if name else ''}{field} is missing")
            check(value[field], inner, f"{name}{'.' if name else ''}{field}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, found {shortened(repr(value))}")
        for number, item in enumerate(value):
            check(item, shape[0], f"{name}[{number}]")
    elif not isinstance(value, shape) or (shape is not ANY and isinstance(value, bool)):
        raise ValueError(f"{name} cannot be {shortened(repr(value))}")

"""What a configuration of an objective must satisfy. Checks raise UserError and name the field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from sparsepo_dist.errors import UserError, did_you_mean
from sparsepo_dist.objectives.beta_dpo import LEAST_BETA
from sparsepo_dist.objectives.config import FDivergence, ObjectiveConfig, PreferenceForm
from sparsepo_dist.ops import DivergenceForm

_CHOICES = {
    "divergence": (*get_args(DivergenceForm), "alpha"), "f_divergence": get_args(FDivergence),
    "form": get_args(PreferenceForm),
}  # fmt: skip
_NOT_NEGATIVE = (
    "alpha", "gamma", "nll_weight", "penalty", "desirable_weight", "undesirable_weight", "l1_reward", "l1_divergence",
)  # fmt: skip
_SHARES = {"ld_dpo": "alpha", "d2po": "gamma"}
_ALPHA_IF = {"f_dpo": "f_divergence", "sparsepo": "divergence", "mapo": "divergence"}
"""Of objectives that use `alpha` only where another field says alpha, that field."""
_FORMED = ("dpo", "wpo")
_SMOOTHED = ("sigmoid", "robust", "exo")


def check_name(name: str, known: Iterable[str]) -> None:
    """Raise UserError unless the objective exists."""
    names = list(known)
    if name not in names:
        raise UserError(f"objective.name: {name!r} is not one of {', '.join(names)}{did_you_mean(name, names)}")


def describe_unused(config: ObjectiveConfig, uses: Mapping[str, Sequence[str]]) -> list[str]:
    """What is given and will be ignored; `uses` holds the fields that each objective uses."""
    plain, unused = ObjectiveConfig(), []
    for field in (entry.name for entry in dataclasses.fields(config) if entry.name != "name"):
        value = getattr(config, field)
        if field not in uses[config.name] and value != getattr(plain, field):
            users = ", ".join(name for name, fields in uses.items() if field in fields)
            unused.append(f"objective.{field}: {value} is for {users}; {config.name} does not use it")
    if leaves_alpha_out(config) and config.alpha is not None:
        field = _ALPHA_IF[config.name]
        unused.append(f"objective.alpha: {config.alpha} is for {field} alpha; {getattr(config, field)} does not use it")
    return unused


def leaves_alpha_out(config: ObjectiveConfig) -> bool:
    """Whether the objective uses `alpha`, but not as it is configured."""
    return config.name in _ALPHA_IF and getattr(config, _ALPHA_IF[config.name]) != "alpha"


def check_values(config: ObjectiveConfig) -> None:
    """Raise UserError unless every constant is a finite number in its range, every choice one of those there are."""
    for field, choices in _CHOICES.items():
        value = getattr(config, field)
        if value not in choices:
            raise UserError(f"objective.{field}: {value!r} is not one of {', '.join(choices)}")
    for field in ("beta", "label_smoothing", "tau", *_NOT_NEGATIVE):
        value = getattr(config, field)
        if value is not None and not math.isfinite(value):
            raise UserError(f"objective.{field}: {value} is not a finite number")
        if field in _NOT_NEGATIVE and value is not None and value < 0:
            raise UserError(f"objective.{field}: {value} must not be negative")
    if config.beta is not None and config.beta <= 0:
        raise UserError(f"objective.beta: {config.beta} must be greater than 0")
    if not 0 < config.tau <= 1:
        raise UserError(f"objective.tau: {config.tau} must be in (0, 1]")
    if not 0 <= config.label_smoothing < 0.5:
        raise UserError(f"objective.label_smoothing: {config.label_smoothing} must be in [0, 0.5)")


def check_combinations(config: ObjectiveConfig) -> None:
    """Raise UserError where what is right by itself is not right together."""
    if config.label_smoothing and config.form not in _SMOOTHED:
        raise UserError(
            f"objective.label_smoothing: {config.label_smoothing} is for form sigmoid, robust and exo, "
            f"not for {config.form}; leave it out"
        )
    if config.name in _FORMED and config.form == "exo" and config.label_smoothing == 0:
        raise UserError(
            "objective.label_smoothing: form exo needs one above 0, such as 0.001: at 0 its loss is infinite"
        )
    if config.name in _FORMED and config.form != "discopop" and config.tau != ObjectiveConfig().tau:
        raise UserError(f"objective.tau: {config.tau} is for form discopop, not for {config.form}; leave it out")
    order = config.alpha if _ALPHA_IF.get(config.name) == "divergence" and config.divergence == "alpha" else None
    if order is not None and not 0 < order < 1:
        raise UserError(
            f"objective.alpha: {order} must be between 0 and 1, both excluded, with divergence alpha: near 1 it is "
            "divergence policy, near 0 KL(pi_ref || pi)"
        )
    share = getattr(config, _SHARES[config.name]) if config.name in _SHARES else None
    if share is not None and share > 1:
        raise UserError(f"objective.{_SHARES[config.name]}: {share} must be in [0, 1] in {config.name}")
    if config.name == "beta_dpo" and config.beta is not None and config.beta < LEAST_BETA:
        raise UserError(f"objective.beta: {config.beta} is below {LEAST_BETA}, the floor of beta_dpo's dynamic beta")

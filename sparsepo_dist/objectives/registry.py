"""Maps an objective's name to its construction, and to the configuration fields it uses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from sparsepo_dist.objectives.alpha_dpo import AlphaDPO
from sparsepo_dist.objectives.alphapo import AlphaPO
from sparsepo_dist.objectives.base import Objective
from sparsepo_dist.objectives.bco import BCO
from sparsepo_dist.objectives.beta_dpo import BetaDPO
from sparsepo_dist.objectives.checks import (
    check_combinations,
    check_name,
    check_values,
    describe_unused,
    leaves_alpha_out,
)
from sparsepo_dist.objectives.config import ObjectiveConfig
from sparsepo_dist.objectives.confpo import ConfPO
from sparsepo_dist.objectives.dpo import DPO
from sparsepo_dist.objectives.dpop import DPOP
from sparsepo_dist.objectives.f_dpo import FDPO
from sparsepo_dist.objectives.kto import KTO
from sparsepo_dist.objectives.nll import WithLikelihood
from sparsepo_dist.objectives.odpo import ODPO
from sparsepo_dist.objectives.oracle_dpo import OracleDPO
from sparsepo_dist.objectives.orpo import ORPO
from sparsepo_dist.objectives.simpo import SimPO
from sparsepo_dist.objectives.sparsepo import SparsePO
from sparsepo_dist.objectives.supervised import SFT
from sparsepo_dist.objectives.tdpo import TDPO
from sparsepo_dist.objectives.tis_dpo import TISDPO
from sparsepo_dist.objectives.weighted import D2PO, LDDPO, SamPO
from sparsepo_dist.objectives.wpo import WPO


class _Entry(NamedTuple):
    """One objective: called with the fields it uses, by name."""

    build: Callable[..., Objective]
    uses: tuple[str, ...] = ()
    alpha: float | None = None
    """What `alpha` means where the recipe is silent."""
    beta: float = 0.1
    """The same of `beta`."""
    gamma: float | None = None
    """The same of `gamma`."""
    likelihood: bool = True
    """Whether `nll_weight` adds the chosen response's likelihood."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Every configuration field that makes a difference."""
        return (*self.uses, "nll_weight") if self.likelihood else self.uses


_ENTRIES = {
    "sparsepo": _Entry(
        partial(SparsePO, masks="learned"), ("beta", "divergence", "alpha", "l1_reward", "l1_divergence"), alpha=0.5
    ),
    "mapo": _Entry(partial(SparsePO, masks="activation"), ("beta", "divergence", "alpha"), alpha=0.5),
    "tdpo1": _Entry(TDPO, ("beta",)),
    "tdpo2": _Entry(TDPO, ("beta", "alpha"), alpha=0.5),
    "sepo": _Entry(partial(OracleDPO, masks="oracle"), ("beta",)),
    "tgdpo": _Entry(partial(OracleDPO, masks="guided"), ("beta",)),
    "tis_dpo": _Entry(TISDPO, ("beta", "alpha"), alpha=1.0),
    "dpo": _Entry(DPO, ("beta", "form", "label_smoothing", "tau")),
    "wpo": _Entry(WPO, ("beta", "form", "label_smoothing", "tau")),
    "dpop": _Entry(DPOP, ("beta", "penalty")),
    "odpo": _Entry(ODPO, ("beta", "alpha"), alpha=1.0),
    "beta_dpo": _Entry(BetaDPO, ("beta", "alpha"), alpha=0.6),
    "kto": _Entry(KTO, ("beta", "desirable_weight", "undesirable_weight")),
    "bco": _Entry(BCO, ("beta",)),
    "ld_dpo": _Entry(LDDPO, ("beta", "alpha"), alpha=0.5),
    "sampo": _Entry(SamPO, ("beta", "seed")),
    "d2po": _Entry(D2PO, ("beta", "gamma"), gamma=0.98),
    "f_dpo": _Entry(FDPO, ("beta", "f_divergence", "alpha"), alpha=0.5),
    "simpo": _Entry(SimPO, ("beta", "gamma"), beta=2.5, gamma=0.3),
    "alpha_dpo": _Entry(AlphaDPO, ("beta", "gamma", "alpha"), beta=2.5, gamma=0.3, alpha=0.05),
    "alphapo": _Entry(AlphaPO, ("beta", "gamma", "alpha"), beta=2.5, gamma=0.3, alpha=0.25),
    "confpo": _Entry(ConfPO, ("beta", "gamma"), beta=2.5, gamma=0.3),
    "orpo": _Entry(ORPO, ("beta",), likelihood=False),
    "sft": _Entry(SFT, likelihood=False),
}


def objective_names() -> list[str]:
    """Every registered name."""
    return list(_ENTRIES)


def used_fields() -> dict[str, tuple[str, ...]]:
    """By name of an objective, the fields of its configuration that make a difference."""
    return {name: entry.fields for name, entry in _ENTRIES.items()}


def unused_fields(config: ObjectiveConfig) -> list[str]:
    """A sentence for each field that is given and that the objective ignores: one recipe serves several objectives."""
    return describe_unused(config, used_fields())


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective a configuration names.

    What it uses and `config` leaves open is filled in there, so that what is recorded of a run says what was used.

    Raises:
        UserError: the name is unknown, or a constant is out of range.
    """
    check_name(config.name, _ENTRIES)
    entry = _ENTRIES[config.name]
    for field in ("beta", "alpha", "gamma"):
        if field == "alpha" and leaves_alpha_out(config):
            continue
        if field in entry.uses and getattr(config, field) is None:
            setattr(config, field, getattr(entry, field))
    check_values(config)
    check_combinations(config)
    objective = entry.build(**{name: getattr(config, name) for name in entry.uses})
    return WithLikelihood(objective, config.nll_weight) if config.nll_weight and entry.likelihood else objective

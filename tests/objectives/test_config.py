"""The registry: defaults of each objective, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.objectives import ObjectiveConfig, build_objective, objective_names, unused_fields
from sparsepo_dist.objectives.alpha_dpo import AlphaDPO
from sparsepo_dist.objectives.alphapo import AlphaPO
from sparsepo_dist.objectives.bco import BCO
from sparsepo_dist.objectives.beta_dpo import BetaDPO
from sparsepo_dist.objectives.confpo import ConfPO
from sparsepo_dist.objectives.dpo import DPO
from sparsepo_dist.objectives.dpop import DPOP
from sparsepo_dist.objectives.f_dpo import FDPO
from sparsepo_dist.objectives.kto import KTO
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

DEFAULTS = {
    "sparsepo": SparsePO(0.1, "policy", "learned", None, 0.0, 0.0),
    "mapo": SparsePO(0.1, "policy", "activation"),
    "tdpo1": TDPO(0.1),
    "tdpo2": TDPO(0.1, 0.5),
    "sepo": OracleDPO(0.1, "oracle"),
    "tgdpo": OracleDPO(0.1, "guided"),
    "tis_dpo": TISDPO(0.1, 1.0),
    "dpo": DPO(0.1, "sigmoid", 0.0),
    "wpo": WPO(0.1, "sigmoid", 0.0),
    "dpop": DPOP(0.1, 50.0),
    "odpo": ODPO(0.1, 1.0),
    "beta_dpo": BetaDPO(0.1, 0.6),
    "kto": KTO(0.1, 1.0, 1.0),
    "bco": BCO(0.1),
    "ld_dpo": LDDPO(0.1, 0.5),
    "sampo": SamPO(0.1, 0),
    "d2po": D2PO(0.1, 0.98),
    "f_dpo": FDPO(0.1, "alpha", 0.5),
    "alpha_dpo": AlphaDPO(2.5, 0.3, 0.05),
    "alphapo": AlphaPO(2.5, 0.3, 0.25),
    "confpo": ConfPO(2.5, 0.3),
    "simpo": SimPO(2.5, 0.3),
    "orpo": ORPO(0.1),
    "sft": SFT(),
}
# A value that is in range, and not the field's default.
OTHER: dict[str, Any] = {
    "beta": 0.3, "alpha": 0.7, "gamma": 0.9, "penalty": 5.0, "divergence": "reference", "form": "hinge",
    "label_smoothing": 0.2, "desirable_weight": 1.4, "undesirable_weight": 0.4, "l1_reward": 0.01,
    "l1_divergence": 0.02, "nll_weight": 0.4, "tau": 0.2, "f_divergence": "js", "seed": 3,
}  # fmt: skip
USES: dict[str, set[str]] = {
    "sparsepo": {"beta", "divergence", "alpha", "l1_reward", "l1_divergence"},
    "mapo": {"beta", "divergence", "alpha"},
    "tdpo2": {"beta", "alpha"},
    "dpo": {"beta", "form", "label_smoothing", "tau"},
    "wpo": {"beta", "form", "label_smoothing", "tau"},
    "dpop": {"beta", "penalty"},
    "odpo": {"beta", "alpha"},
    "beta_dpo": {"beta", "alpha"},
    "kto": {"beta", "desirable_weight", "undesirable_weight"},
    "simpo": {"beta", "gamma"},
    "sft": set(),
    "tdpo1": {"beta"},
    "sepo": {"beta"},
    "tgdpo": {"beta"},
    "tis_dpo": {"beta", "alpha"},
    "bco": {"beta"},
    "alpha_dpo": {"beta", "gamma", "alpha"},
    "orpo": {"beta"},
    "ld_dpo": {"beta", "alpha"},
    "sampo": {"beta", "seed"},
    "d2po": {"beta", "gamma"},
    "f_dpo": {"beta", "f_divergence", "alpha"},
    "alphapo": {"beta", "gamma", "alpha"},
    "confpo": {"beta", "gamma"},
}
for _name in USES.keys() - {"orpo", "sft"}:
    USES[_name].add("nll_weight")
# What a field is refused without, where the objective uses it.
WITH: dict[tuple[str, str], dict[str, str]] = {
    **{(name, "tau"): {"form": "discopop"} for name in ("dpo", "wpo")},
    **{(name, "alpha"): {"divergence": "alpha"} for name in ("sparsepo", "mapo")},
}
NO_NUMBERS = {"form", "f_divergence", "divergence", "seed"}


def refused(message: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build_objective(ObjectiveConfig(**settings))


@pytest.mark.parametrize("name", objective_names())
def test_defaults(name: str) -> None:
    assert build_objective(ObjectiveConfig(name=name)) == DEFAULTS[name]


@pytest.mark.parametrize("name", objective_names())
def test_what_is_left_open_is_filled_in_where_it_is_used(name: str) -> None:
    """So that a run's config.yaml has the values it ran with, and is a recipe that gives the same run."""
    config = ObjectiveConfig(name=name)
    built = build_objective(config)
    assert config.beta == getattr(built, "beta", None)
    assert config.alpha == getattr(built, "alpha", None)
    assert config.gamma == getattr(built, "gamma", None)
    assert build_objective(ObjectiveConfig(**dataclasses.asdict(config))) == built


@pytest.mark.parametrize("field", OTHER)
@pytest.mark.parametrize("name", objective_names())
def test_a_field_reaches_the_objective_or_is_named_as_ignored(name: str, field: str) -> None:
    settings = {"name": name, field: OTHER[field], **WITH.get((name, field), {})}
    if field in USES[name]:
        assert unused_fields(ObjectiveConfig(**settings)) == []
        built = build_objective(ObjectiveConfig(**settings))
        assert getattr(built, field) == OTHER[field]
        assert built != DEFAULTS[name]
    else:
        users = [other for other in objective_names() if field in USES[other]]
        (told,) = unused_fields(ObjectiveConfig(**settings))
        assert told == f"objective.{field}: {OTHER[field]} is for {', '.join(users)}; {name} does not use it"


def test_alpha_of_another_divergence_is_named_as_ignored() -> None:
    (told,) = unused_fields(ObjectiveConfig(name="f_dpo", f_divergence="js", alpha=0.7))
    assert told == "objective.alpha: 0.7 is for f_divergence alpha; js does not use it"


def test_every_field_is_used_and_tested() -> None:
    assert {field.name for field in dataclasses.fields(ObjectiveConfig)} == {"name", *OTHER}
    assert set().union(*USES.values()) == set(OTHER)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    refused("objective.name: 'dppo' is not one of sparsepo, mapo", name="dppo")
    for wrong, near in (("simp0", "simpo"), ("betadpo", "beta_dpo"), ("tdpo_2", "tdpo2"), ("SparsePO", "sparsepo")):
        refused(f"did you mean {near}?", name=wrong)
    with pytest.raises(UserError) as told:
        build_objective(ObjectiveConfig(name="xyz"))
    assert "did you mean" not in str(told.value)
    assert all(name in str(told.value) for name in objective_names())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", objective_names())
def test_numbers_that_are_not_finite(name: str, value: float) -> None:
    for field in USES[name] - NO_NUMBERS:
        refused(f"objective.{field}: {value} is not a finite number", name=name, **{field: value})


@pytest.mark.parametrize("name", objective_names())
def test_numbers_out_of_range(name: str) -> None:
    for field in USES[name] - NO_NUMBERS - {"beta", "label_smoothing", "tau"}:
        refused(f"objective.{field}: -0.5 must not be negative", name=name, **{field: -0.5})
        build_objective(ObjectiveConfig(name=name, **{field: 0.0}))
    if "beta" in USES[name]:
        for beta in (0.0, -1.0):
            refused(f"objective.beta: {beta} must be greater than 0", name=name, beta=beta)


@pytest.mark.parametrize("form", ["sigmoid", "robust"])
def test_label_smoothing_is_below_a_half(form: Any) -> None:
    for value in (0.5, 0.7, 1.0, -0.1):
        refused(f"objective.label_smoothing: {value} must be in [0, 0.5)", name="dpo", form=form, label_smoothing=value)


@pytest.mark.parametrize("form", ["hinge", "ipo"])
def test_label_smoothing_is_for_logistic_forms(form: Any) -> None:
    refused(f"is for form sigmoid, robust and exo, not for {form}", name="dpo", form=form, label_smoothing=0.1)


def test_constants_of_a_form() -> None:
    refused("objective.label_smoothing: form exo needs one above 0", name="dpo", form="exo")
    refused("objective.tau: 0.2 is for form discopop, not for sigmoid", name="dpo", tau=0.2)
    for tau in (0.0, -1.0, 1.5):
        refused(f"objective.tau: {tau} must be in (0, 1]", name="dpo", form="discopop", tau=tau)


def test_choices_that_do_not_exist() -> None:
    form: Any = "sigmoyd"
    refused("objective.form: 'sigmoyd' is not one of sigmoid, hinge, ipo, robust", name="dpo", form=form)
    refused("objective.divergence: 'sigmoyd' is not one of policy, reference", name="sparsepo", divergence=form)


def test_beta_dpo_starts_at_its_floor_or_above() -> None:
    refused("objective.beta: 0.0005 is below 0.001, the floor", name="beta_dpo", beta=0.0005)
    build_objective(ObjectiveConfig(name="beta_dpo", beta=0.001))


@pytest.mark.parametrize(("name", "field"), [("ld_dpo", "alpha"), ("d2po", "gamma")])
def test_shares_are_at_most_one(name: str, field: str) -> None:
    refused(f"objective.{field}: 1.5 must be in [0, 1] in {name}", name=name, **{field: 1.5})


def test_requirements() -> None:
    """What must be computed for each, of a reference, a divergence, masks, scores and rejected responses."""
    needs = {name: build_objective(ObjectiveConfig(name=name)).requirements for name in objective_names()}
    assert {name for name, need in needs.items() if not need.reference} == {
        "simpo", "alphapo", "confpo", "orpo", "sft"
    }  # fmt: skip
    assert {name for name, need in needs.items() if not need.rejected} == {"sft"}
    assert {name for name, need in needs.items() if need.scores} == {"odpo"}
    assert {name: need.masks for name, need in needs.items() if need.masks} == {
        "sparsepo": "learned", "mapo": "activation", "sepo": "oracle", "tgdpo": "guided", "tis_dpo": "contrast",
    }  # fmt: skip
    assert {name: need.divergence for name, need in needs.items() if need.divergence} == {
        "sparsepo": "policy", "mapo": "policy", "tdpo1": "reference", "tdpo2": "reference",
        "tis_dpo": "policy",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["sparsepo", "kto", "simpo"])
def test_likelihood_beside_a_loss_needs_every_token(name: str) -> None:
    """The tokens that masks rule out count in it, too."""
    plain, with_it = (build_objective(ObjectiveConfig(name=name, nll_weight=weight)) for weight in (0.0, 0.2))
    assert not plain.requirements.all_tokens
    assert with_it.requirements == plain.requirements._replace(all_tokens=True)

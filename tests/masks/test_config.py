"""Values and combinations that cannot work are refused by the field's name."""

from __future__ import annotations

import dataclasses
import re

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig, resolve_kind, unused_options
from sparsepo_dist.masks.config import _ONLY_FOR
from sparsepo_dist.runs.parsing import train_parser

WRONG = {
    "dropout": {"dropout": 1.0},
    "learning_rate": {"learning_rate": -1e-3},
    "weight_decay": {"weight_decay": -0.1},
    "selected_share": {"selected_share": 0.0},
    "sharing": {"sharing": "common", "on": "reward"},
    "clip": {"clip": True, "normalisation": "rescale"},
    "site_types": {"site_types": ["mlp", "head"]},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_named(name: str) -> None:
    with pytest.raises(UserError, match=f"^masks.{name}: "):
        MaskConfig(**WRONG[name]).validate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site_types": []}, r"site_types: \[\] must be some of mlp, attention, residual, each once"),
        ({"site_types": ["mlp", "mlp"]}, "each once"),
        ({"site_types": ["logits"]}, "masks.sites is paper"),
        ({"site_patterns": {"logits": "lm_head"}, "sites": "released"}, "'logits' is none of the types that are read"),
        ({"site_patterns": {"mlp": "x"}, "site_types": ["residual"]}, "are read off modules here: residual"),
        ({"site_patterns": {"mlp": "("}}, "'\\(' is no regular expression"),
    ],
)
def test_wrong_sites_are_explained(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MaskConfig(**options).validate()


def test_released_has_logits_and_types_can_be_chosen() -> None:
    released = MaskConfig(sites="released", site_types=["logits", "mlp"], site_patterns={"mlp": r"h\.\d+\.mlp"})
    released.validate()
    assert released.read_types == ("logits", "mlp")
    assert MaskConfig(sites="released").read_types == ("mlp", "attention", "residual", "logits")
    assert MaskConfig().read_types == ("mlp", "attention", "residual")


def test_kind_is_the_objectives_own_or_one_that_sparsepo_can_be_compared_with() -> None:
    assert resolve_kind("mapo", "activation", MaskConfig()) == "activation"
    assert resolve_kind("sepo", "oracle", MaskConfig(selected_share=0.5)) == "oracle"
    assert resolve_kind("dpo", None, MaskConfig()) is None
    assert resolve_kind("sparsepo", "learned", MaskConfig(kind="random", random="fresh")) == "random"
    for objective, own, has in (("mapo", "activation", "with activation masks"), ("dpo", None, "has no masks")):
        with pytest.raises(UserError, match=f"masks.kind: 'random' does not go with objective {objective}.*{has}"):
            resolve_kind(objective, own, MaskConfig(kind="random"))


OTHER = {
    "on": "reward", "sharing": "common", "layers": "last", "linears": 2, "layer_norm": True, "dropout": 0.1,
    "binary": "released", "learning_rate": 1e-3, "weight_decay": 0.0, "random": "fresh", "sites": "released",
    "site_types": ["mlp"], "site_patterns": {"mlp": "x"}, "normalisation": "rescale", "clip": True,
    "selected_share": 0.5,
}  # fmt: skip


def test_every_option_but_kind_is_for_some_kinds() -> None:
    assert set(OTHER) == set(_ONLY_FOR) == {entry.name for entry in dataclasses.fields(MaskConfig)} - {"kind"}


@pytest.mark.parametrize("name", OTHER)
def test_options_of_another_kind_are_named(name: str) -> None:
    config = MaskConfig(**{name: OTHER[name]})
    for kind in ("learned", "activation", "random", "ones", "oracle", None):
        if kind in _ONLY_FOR[name]:
            assert unused_options(kind, config) == []
            continue
        here = f"this run's masks are of kind {kind}" if kind else "this run's objective has no masks"
        (told,) = unused_options(kind, config)
        assert re.fullmatch(f"masks.{name}: {re.escape(str(OTHER[name]))} is for .* masks, but {here}", told)


def test_every_option_can_stand_on_the_command_line() -> None:
    arguments = [f"--masks.{name}={value}" for name, value in OTHER.items() if name != "site_patterns"]
    parsed = train_parser().parse_args([*arguments, r'--masks.site_patterns={"mlp": "h\\.\\d+\\.mlp"}'])
    got = train_parser().instantiate_classes(parsed).masks
    assert got == MaskConfig(**{**OTHER, "site_patterns": {"mlp": r"h\.\d+\.mlp"}})

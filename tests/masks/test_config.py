"""Values and combinations that cannot work are refused by the field's name."""

from __future__ import annotations

import dataclasses
import re
from typing import get_args

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig, MaskKind, MaskSources, resolve_sources, unused_options
from sparsepo_dist.masks.sources import _ONLY_FOR
from sparsepo_dist.runs.parsing import train_parser

WRONG = {
    "dropout": {"dropout": 1.0},
    "learning_rate": {"learning_rate": -1e-3},
    "weight_decay": {"weight_decay": -0.1},
    "selected_share": {"selected_share": 0.0},
    "decay_factor": {"decay_factor": 0.0},
    "tail_weight": {"tail_weight": 1.5},
    "guidance": {"guidance": -0.1},
    "contrast_strength": {"contrast_strength": float("nan")},
    "contrast_bounds": {"contrast_bounds": (1.0, 1.0)},
    "sharing": {"sharing": "common", "on": "reward"},
    "clip": {"clip": True, "normalisation": "rescale"},
    "site_types": {"site_types": ["mlp", "head"]},
    "floor": {"floor": 1.0},
    "bounded": {"bounded": True, "binary": "released"},
    "initial_sparsity": {"initial_sparsity": (0.5, 1.0)},
    "initial_mean": {"initial_mean": 0.1, "floor": 0.1},
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
        ({"sites": "released", "normalisation": "sigmoid"}, "masks.site_types: with masks.normalisation sigmoid"),
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


def sources(own: str | None, config: MaskConfig) -> MaskSources:
    return resolve_sources(own, config, objective="o", preferences=True)


def test_kind_is_the_objectives_own_or_what_the_recipe_names() -> None:
    assert sources("activation", MaskConfig()) == ("activation",)
    assert sources("oracle", MaskConfig(selected_share=0.5)) == ("oracle",)
    assert sources(None, MaskConfig()) == ()
    assert sources("learned", MaskConfig(kind="random", random="fresh")) == ("random",)
    assert sources(None, MaskConfig(kind=["learned", "decay"])) == ("learned", "decay")
    with pytest.raises(UserError, match="masks.kind: 'learned' does not go with objective sft, which compares no"):
        resolve_sources(None, MaskConfig(kind="learned"), objective="sft", preferences=False)
    with pytest.raises(UserError, match="masks.floor: 0.1 is the least weight of a learned mask, and no other source"):
        sources(None, MaskConfig(kind=["learned", "decay"], floor=0.1))
    for kinds in ([], ["learned", "learned"]):
        with pytest.raises(UserError, match="masks.kind: .* must be some kinds, each once"):
            MaskConfig(kind=kinds).validate()


OTHER = {
    "on": "reward", "sharing": "common", "layers": "last", "linears": 2, "layer_norm": True, "dropout": 0.1,
    "binary": "released", "learning_rate": 1e-3, "weight_decay": 0.0, "random": "fresh", "sites": "released",
    "site_types": ["mlp"], "site_patterns": {"mlp": "x"}, "normalisation": "rescale", "clip": True,
    "selected_share": 0.5, "init": "calibrated", "initial_sparsity": (0.5, 0.7), "initial_mean": 2.0, "bounded": True,
    "floor": 0.1, "decay_factor": 0.5, "tail_weight": 0.25, "guidance": 0.2, "contrast": "exponential",
    "contrast_strength": 0.5, "contrast_bounds": (-1.0, 1.0),
}  # fmt: skip


def test_every_option_but_kind_is_for_some_kinds() -> None:
    assert set(OTHER) == set(_ONLY_FOR) == {entry.name for entry in dataclasses.fields(MaskConfig)} - {"kind"}


@pytest.mark.parametrize("name", OTHER)
def test_options_of_another_kind_are_named(name: str) -> None:
    start = {"init": "calibrated"} if name.startswith("initial_") else {}
    config = MaskConfig(**{**start, name: OTHER[name]})
    for kind in (*get_args(MaskKind), None):
        of: MaskSources = (kind,) if kind else ()
        if kind in _ONLY_FOR[name]:
            assert unused_options(of, config) == [] == unused_options((*of, "ones"), config)
            continue
        here = f"this run's masks are of kind {kind}" if kind else "this run's objective has no masks"
        (told,) = [told for told in unused_options(of, config) if not start or "masks.init:" not in told]
        assert re.fullmatch(f"masks.{name}: {re.escape(str(OTHER[name]))} is for .* masks, but {here}", told)


def test_every_option_can_stand_on_the_command_line() -> None:
    given = {**OTHER, "initial_sparsity": [0.5, 0.7], "contrast_bounds": [-1.0, 1.0]}
    arguments = [f"--masks.{name}={value}" for name, value in given.items() if name != "site_patterns"]
    parsed = train_parser().parse_args([*arguments, r'--masks.site_patterns={"mlp": "h\\.\\d+\\.mlp"}'])
    got = train_parser().instantiate_classes(parsed).masks
    assert got == MaskConfig(**{**OTHER, "site_patterns": {"mlp": r"h\.\d+\.mlp"}})


class TestStarts:
    def test_released_brings_its_layer_norm_and_dropout_and_what_is_given_wins(self) -> None:
        plain, released = MaskConfig(), MaskConfig(init="released")
        assert (plain.layer_norm, plain.dropout) == (False, 0.0)
        assert (released.layer_norm, released.dropout) == (True, 0.01)
        own = MaskConfig(init="released", layer_norm=False, dropout=0.0)
        assert (own.layer_norm, own.dropout) == (False, 0.0)
        assert unused_options(("learned",), released) == []

    def test_a_share_is_for_both_masks_or_one_for_each(self) -> None:
        assert MaskConfig().shares() == (0.8, 0.8)
        assert MaskConfig(initial_sparsity=(0.5, 0.7)).shares() == (0.5, 0.7)
        with pytest.raises(UserError, match="initial_sparsity: .* two shares, but a common mask has one"):
            MaskConfig(sharing="common", initial_sparsity=(0.5, 0.7)).validate()

    def test_a_mean_that_bounded_weights_cannot_have_is_refused_with_what_they_can(self) -> None:
        MaskConfig(bounded=True).validate()  # only a calibrated start has a mean to reach
        MaskConfig(init="calibrated", bounded=True, initial_mean=0.19).validate()
        with pytest.raises(UserError, match="initial_mean: 1.0 cannot be: .* of which 0.8 are 0 have a mean below 0.2"):
            MaskConfig(init="calibrated", bounded=True).validate()

    def test_targets_without_a_calibrated_start_are_named(self) -> None:
        (told,) = unused_options(("learned",), MaskConfig(initial_mean=2.0))
        assert told == "masks.initial_mean: 2.0 is for masks.init calibrated, but it is torch"

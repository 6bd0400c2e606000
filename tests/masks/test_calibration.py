"""A calibrated start has the share and mean that are asked for, whatever the seed, and nearly so on unseen pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparsepo_dist.builtin.smollm2 import gguf_file, smollm2_folder
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import LearnedMask, MaskConfig
from sparsepo_dist.masks.calibration import Target, threshold
from tests.masks.starting import Hidden, calibrate, calibrated_heads, hidden_states, sentences
from tests.support.tiny import save_tiny_model

RESPONSES = 64  # of the batch, as of 32 pairs; as many are unseen
FAMILIES = ("gpt2", "gpt_neox", "llama")


def draw(folder: Path) -> Hidden:
    return hidden_states(folder, sentences(2 * RESPONSES), RESPONSES)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Hidden]:
    base = tmp_path_factory.mktemp("calibration")
    return {family: draw(save_tiny_model(base / family, family)) for family in FAMILIES}


def check(hidden: Hidden, config: MaskConfig, seeds: range) -> None:
    """The share within 0.02 on the batch and 0.1 on unseen pairs, and the mean, of both masks."""
    for seed in seeds:
        heads = calibrated_heads(hidden, config, seed)
        for number, part in enumerate(hidden.parts):
            with torch.no_grad():
                masks = heads(part if config.layers == "all" else part[-1:])
            for mask, share in zip(masks, config.shares(), strict=True):
                found = (mask == config.floor).double().mean().item()
                assert found == pytest.approx(share, abs=0.1 if number else 0.02), (seed, number)
                if not number:
                    assert mask.mean().item() == pytest.approx(config.initial_mean, rel=1e-3)


def variant(layers: str, sharing: str, **options: object) -> MaskConfig:
    sparsity = 0.8 if sharing == "common" else (0.8, 0.5)
    config = MaskConfig(init="calibrated", layers=layers, sharing=sharing, initial_sparsity=sparsity, **options)
    config.validate()
    return config


@pytest.mark.parametrize("sharing", ["common", "independent"])
@pytest.mark.parametrize("layers", ["all", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_linear_of_fifty_seeds(hidden: dict[str, Hidden], family: str, layers: str, sharing: str) -> None:
    check(hidden[family], variant(layers, sharing), range(50))


@pytest.mark.parametrize("layers", ["all", "last"])
def test_two_linears(hidden: dict[str, Hidden], layers: str) -> None:
    check(hidden["gpt_neox"], variant(layers, "independent", linears=2), range(3))


@pytest.mark.parametrize("layers", ["all", "last"])
def test_within_bounds_above_a_floor_and_with_a_layer_norm(hidden: dict[str, Hidden], layers: str) -> None:
    options = {"bounded": True, "floor": 0.01, "initial_mean": 0.15, "layer_norm": True}
    check(hidden["llama"], variant(layers, "independent", **options), range(4))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("linears", [1, 2])
@pytest.mark.parametrize("layers", ["all", "last"])
def test_fifty_seeds_of_every_kind(hidden: dict[str, Hidden], layers: str, linears: int) -> None:
    """On SmolLM2, too, whose two linears over all layers take long: five seeds."""
    models = dict(hidden)
    try:
        gguf_file()
        models["smollm2"] = draw(smollm2_folder())
    except UserError as error:
        pytest.skip(str(error))
    for name, states in models.items():
        slow = (name, layers, linears) == ("smollm2", "all", 2)
        for layer_norm in (False, True):
            config = variant(layers, "independent", linears=linears, layer_norm=layer_norm)
            check(states, config, range(5 if slow else 50))


def scores(tokens: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99, 0.999])
def test_a_threshold_leaves_the_rounded_share_below_and_one_token_above(share: float) -> None:
    values = scores()
    assert (values < threshold(values, share)).sum().item() == min(round(40 * share), 39)
    pairs = values.repeat_interleave(2)
    assert (pairs < threshold(pairs + 1e-9 * scores(80, seed=1), share)).sum().item() % 2 == 0, "twins stay together"
    same = torch.ones(5)
    assert (same > threshold(same, 0.0)).all(), "where all tokens say the same"


def test_bfloat16_heads_reach_it_as_far_as_their_digits_go(hidden: dict[str, Hidden]) -> None:
    states, _ = hidden["gpt2"].parts
    for layers in (states, states[-1:]):
        torch.manual_seed(0)
        head = LearnedMask(len(layers), layers.shape[-1], MaskConfig()).bfloat16().eval()
        calibrate(head, layers, Target(0.8, 1.0))
        mask = head(layers)
        assert (mask == 0).double().mean().item() == pytest.approx(0.8, abs=0.02)
        assert mask.mean().item() == pytest.approx(1.0, rel=0.03)


def test_heads_keep_their_form_a_positive_factor_per_layer_and_a_shift(hidden: dict[str, Hidden]) -> None:
    """What a calibrated head can become is what any head can: directions of the layers' weights are as drawn."""
    states, _ = hidden["llama"].parts
    torch.manual_seed(0)
    head = LearnedMask(len(states), states.shape[-1], MaskConfig())
    drawn = {name: p.detach().clone() for name, p in head.named_parameters()}
    calibrate(head, states, Target(0.5, 1.0))
    factor = head.weight / drawn["weight"]
    assert (factor > 0).all()
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=1e-5, atol=0)
    steps, drawn_steps = head.out.diff(), drawn["out"].diff()
    torch.testing.assert_close(steps / steps[0], drawn_steps / drawn_steps[0], rtol=1e-4, atol=0)

"""Masks of several sources are products, and weights by place are those of the objectives that have them."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from sparsepo_dist.contracts import ReferenceOutputs, TokenizedPair, TokenMasks, TokenStats
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.masks import MaskConfig, MaskKind, MaskPair, TokenMasker
from sparsepo_dist.objectives import ObjectiveConfig, build_objective, compose

PAIRS = [
    TokenizedPair((1, 2, 3), (4, 5, 6), (7, 8)),
    TokenizedPair((1,), (2,), (3, 4, 5, 6, 7)),
    TokenizedPair((9, 9), (4, 5), (4, 6)),
]
LENGTHS = [len(ids) for pair in PAIRS for ids in (pair.chosen_ids, pair.rejected_ids)]
BATCH = pack(PAIRS, [1 / 3] * 3, "packed")
SEED = 11


class FourWide:
    """A reference of two layers."""

    site_types = ("mlp", "attention")
    layers, width = 2, 4


def reference() -> ReferenceOutputs:
    g = torch.Generator().manual_seed(3)
    tokens = len(BATCH.labels)
    return ReferenceOutputs(
        logps=-torch.rand(tokens, generator=g), oracle_logps=-torch.rand(tokens, generator=g),
        against_logps=-torch.rand(tokens, generator=g),
        site_means=torch.randn(2, tokens, generator=g), layer_hidden=torch.randn(2, tokens, 4, generator=g),
    )  # fmt: skip


def masks_of(*sources: MaskKind, **options: object) -> tuple[TokenMasker, MaskPair]:
    torch.manual_seed(1)
    masker = TokenMasker(sources, MaskConfig(**options), FourWide(), SEED)
    return masker, masker(reference(), BATCH, 2)


@pytest.mark.parametrize("first", get_args(MaskKind))
@pytest.mark.parametrize("second", get_args(MaskKind))
def test_two_sources_multiply(first: MaskKind, second: MaskKind) -> None:
    if first == second:
        return
    masker, product = masks_of(first, second)
    alone = [masks_of(source)[1] for source in (first, second)]
    for mask, one, other in zip(product, *alone, strict=True):
        torch.testing.assert_close(mask, one * other)
    assert masker.common == torch.equal(product.reward, product.divergence)


def test_a_mask_there_is_none_of_leaves_the_others_weights() -> None:
    _, product = masks_of("decay", "learned", on="reward")
    assert torch.equal(product.divergence, masks_of("decay")[1].divergence)
    assert not torch.equal(product.reward, product.divergence)


def test_places_weigh_by_their_distance_to_the_start_and_the_shorter_response() -> None:
    want: dict[str, list[float]] = {"decay": [], "tail": []}
    for number, length in enumerate(LENGTHS):
        for place in range(length):
            want["decay"].append(0.9**place)
            want["tail"].append(1.0 if place < min(length, LENGTHS[number ^ 1]) else 0.25)
    options = {"decay_factor": 0.9, "tail_weight": 0.25}
    for source in ("decay", "tail"):
        assert masks_of(source, **options)[1].reward.tolist() == pytest.approx(want[source])  # type: ignore[arg-type]


def test_a_products_gradient_reaches_the_heads_where_the_other_source_lets_it() -> None:
    """One token alone: the gradient of a head's bias is that of the learned mask, times the other weight."""
    masker, product = masks_of("learned", "decay", decay_factor=0.5)
    single, alone = masks_of("learned")
    assert masker.heads is not None and single.heads is not None
    assert masker.heads.reward is not None and single.heads.reward is not None
    token = int(torch.nonzero((alone.reward > 0) & (masks_of("decay")[1].reward < 1))[0])
    (got,) = torch.autograd.grad(product.reward[token], masker.heads.reward.weight)
    (want,) = torch.autograd.grad(alone.reward[token], single.heads.reward.weight)
    place = token - sum(LENGTHS[: int(BATCH.sequence_id[token])])
    assert place > 0 and want.abs().sum() > 0
    torch.testing.assert_close(got, want * 0.5**place)


SAME = {
    "d2po": ("decay", {"gamma": 0.9}, {"decay_factor": 0.9}),
    "ld_dpo": ("tail", {"alpha": 0.25}, {"tail_weight": 0.25}),
    "sampo": ("sampled", {"seed": SEED}, {}),
}


@pytest.mark.parametrize("name", SAME)
def test_dpo_with_weights_by_place_is_the_objective_of_that_name(name: str) -> None:
    source, own, options = SAME[name]
    g = torch.Generator().manual_seed(4)
    stats = TokenStats(*(-5 * torch.rand(len(BATCH.labels), generator=g) for _ in range(2)))

    def losses(config: ObjectiveConfig, masks: MaskConfig) -> tuple[Tensor, dict[str, Tensor]]:
        objective, sources, masks = compose(config, masks)
        if not sources:
            return objective(stats, None, BATCH.responses)
        reward, divergence = TokenMasker(sources, masks, None, SEED)(None, BATCH, 0)
        return objective(stats, TokenMasks(reward, divergence, common=True), BATCH.responses)

    want, metrics = losses(ObjectiveConfig(name=name, **own), MaskConfig())  # type: ignore[arg-type]
    got, found = losses(ObjectiveConfig(name="dpo"), MaskConfig(kind=source, **options))  # type: ignore[arg-type]
    torch.testing.assert_close(got, want)
    assert not torch.allclose(want, torch.full_like(want, math.log(2)))
    for key, values in metrics.items():
        torch.testing.assert_close(found[key], values)
    plain = build_objective(ObjectiveConfig(name="dpo"))(stats, None, BATCH.responses)
    assert not torch.allclose(plain.losses, got)

"""Weights that follow from where a token stands: which, and that packing does not matter."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
import torch

from sparsepo_dist.contracts import Responses, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.masks.positions import decay, positions, sampled, tail
from sparsepo_dist.objectives.base import Sums
from tests.objectives.cases import Batch, objective_of, sequence_ids


def responses(lengths: list[tuple[int, int]]) -> Responses:
    return Responses(sequence_ids(lengths), len(lengths), keys=torch.arange(len(lengths)) * 7919)


def test_positions_and_what_follows_from_them() -> None:
    given = responses([(3, 5), (0, 2)])
    assert positions(given).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1]
    assert decay(responses([(2, 3)]), 0.5, torch.float64).tolist() == [1, 0.5, 1, 0.5, 0.25]
    assert tail(given, 0.25, torch.float64).tolist() == [1, 1, 1, 1, 1, 1, 0.25, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("seed", range(4))
def test_as_many_tokens_are_drawn_as_the_shorter_response_has(seed: int) -> None:
    given = responses([(3, 5), (1, 1), (0, 2), (4, 2)])
    drawn = Sums(given)(sampled(given, seed, torch.float64))
    assert drawn.chosen.tolist() == drawn.rejected.tolist() == [3, 1, 0, 2]


def test_every_token_is_drawn_equally_often() -> None:
    """5 of 20 tokens each time: 0.25, with a standard deviation of 0.007 over 4000 pairs."""
    given = responses([(5, 20)] * 4000)
    share = sampled(given, 0, torch.float64).view(4000, 25)[:, 5:].mean(0)
    assert (share - 0.25).abs().max().item() < 0.03


def test_the_draw_follows_seed_and_pair_whatever_is_beside_it() -> None:
    lengths = [(4, 30), (30, 4), (4, 30)]
    given = responses(lengths)
    whole = sampled(given, 1, torch.float64).view(3, 34)
    assert given.keys is not None
    for pair in range(3):
        alone = dataclasses.replace(responses([lengths[pair]]), keys=given.keys[[pair]])
        assert torch.equal(sampled(alone, 1, torch.float64), whole[pair])
    assert not torch.equal(whole[0], whole[2])
    assert not torch.equal(whole, sampled(given, 2, torch.float64).view(3, 34))


@pytest.mark.parametrize("layout", get_args(Layout))
def test_weights_are_those_of_the_same_tokens_in_every_layout(layout: Layout) -> None:
    """Those of a pair that is packed alone; positions are of trained tokens."""
    pairs = [
        TokenizedPair((1, 2), tuple(range(10, 15)), tuple(range(20, 28))),
        TokenizedPair((1, 2, 3), tuple(range(30, 39)), tuple(range(40, 42)), chosen_trained=((1, 4), (6, 9))),
    ]
    together = pack(pairs, [1.0] * 2, layout)
    given = together.responses
    assert [label % 10 for label in together.labels[:13].tolist()] == positions(given)[:13].tolist()
    assert positions(given)[13:].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    alone = [pack([pair], [1.0], "packed").responses for pair in pairs]
    for weights in (lambda r: sampled(r, 1, torch.float64), lambda r: tail(r, 0.5, torch.float64)):
        assert torch.equal(weights(given), torch.cat([weights(one) for one in alone]))


def test_pairs_of_equal_lengths_are_dpo_and_rewards_are_weighted() -> None:
    even = Batch([(3, 3), (1, 1)])
    for name in ("ld_dpo", "sampo"):
        assert torch.equal(even.apply(objective_of(name)).losses, even.apply(objective_of("dpo")).losses)
    uneven = Batch([(2, 4)])
    output = uneven.apply(objective_of("ld_dpo", alpha=0.0))
    rho = (uneven.policy - uneven.reference).detach()
    torch.testing.assert_close(output.metrics["rewards/margins"], 0.7 * (rho[:2].sum() - rho[2:4].sum())[None])

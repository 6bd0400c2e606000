"""What an oracle is told besides: the packed batch is the one that pairs with longer prompts would be packed into."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
import torch

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.batching.prefix import prefixed, with_prefix
from sparsepo_dist.data.config import Layout

BOS, PREFIX = 1, (50, 51, 52)
PAIRS = [
    TokenizedPair((BOS, 2, 3), (4, 5, 6), (7, 8)),
    TokenizedPair((BOS,), (2,), (3, 4, 5, 6, 7)),  # a prompt of BOS alone, a response that is no input at all
    TokenizedPair((9, 9), (4, 5, 2, 3), (4, 6, 7), chosen_trained=((1, 2), (3, 4))),  # without BOS; trained in parts
    TokenizedPair((BOS, 3), (8, 8), ()),
]
LONGER = [dataclasses.replace(pair, prompt_ids=tuple(prefixed(pair.prompt_ids, PREFIX, BOS))) for pair in PAIRS]
WEIGHTS = [0.25] * len(PAIRS)


def test_a_prefix_stands_behind_bos() -> None:
    assert [pair.prompt_ids for pair in LONGER] == [
        (1, 50, 51, 52, 2, 3), (1, 50, 51, 52), (50, 51, 52, 9, 9), (1, 50, 51, 52, 3),
    ]  # fmt: skip
    assert prefixed((1, 2), (50,), None) == [50, 1, 2]


@pytest.mark.parametrize("layout", get_args(Layout))
def test_a_batch_is_what_longer_prompts_are_packed_into(layout: Layout) -> None:
    found = with_prefix(pack(PAIRS, WEIGHTS, layout), PREFIX, BOS)
    want = pack(LONGER, WEIGHTS, layout)
    for name in ("input_ids", "pair_id", "branch", "predict_index", "labels", "sequence_id"):
        assert torch.equal(getattr(found, name), getattr(want, name)), name
    real = want.pair_id >= 0
    assert torch.equal(found.position_ids[real], want.position_ids[real]) and found.rows == want.rows
    if want.attention is None or found.attention is None:
        assert found.attention is want.attention
        return
    assert found.attention.spans == want.attention.spans and found.attention.causal == want.attention.causal
    assert torch.equal(found.attention.gather_index, want.attention.gather_index)
    assert torch.equal(found.attention.scatter_index, want.attention.scatter_index)


@pytest.mark.parametrize("layout", get_args(Layout))
def test_a_cache_still_knows_the_pairs(layout: Layout) -> None:
    plain = pack(PAIRS, WEIGHTS, layout)
    told = with_prefix(plain, PREFIX, BOS)
    assert torch.equal(told.pair_key, plain.pair_key) and told.tokens_of_pairs == plain.tokens_of_pairs

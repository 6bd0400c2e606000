"""Sample order, balance over ranks, and packing."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.balance import imbalance, pair_tokens, plan_step
from sparsepo_dist.data.batching.order import SampleOrder
from sparsepo_dist.data.batching.pack import pack, shared_mask
from sparsepo_dist.data.config import DataConfig, Layout
from sparsepo_dist.training import batches
from sparsepo_dist.training.batches import MicroBatches


def test_an_epoch_holds_every_pair_once_and_epochs_differ() -> None:
    order = SampleOrder(pairs=10, pairs_per_step=4, seed=1)
    assert order.steps_per_epoch == 3
    first, second = ([i for s in range(e * 3, e * 3 + 3) for i in order.step(s)] for e in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert SampleOrder(10, 4, seed=2).step(0) != order.step(0)


@settings(max_examples=100, deadline=None)
@given(
    tokens=st.lists(st.integers(1, 50), min_size=1, max_size=30), ranks=st.integers(1, 5), budget=st.integers(1, 120),
    most=st.one_of(st.none(), st.integers(1, 4)),
)  # fmt: skip
def test_plan_computes_every_pair_once_within_budget_and_equally_often(
    tokens: list[int], ranks: int, budget: int, most: int | None
) -> None:
    plans = plan_step(range(len(tokens)), dict(enumerate(tokens)), ranks, budget, most)
    assert len(plans) == ranks and len({len(plan) for plan in plans}) == 1
    real = Counter(i for plan in plans for batch in plan if not batch.filler for i in batch.indices)
    assert real == Counter(range(len(tokens)))
    assert sum(batch.filler for plan in plans for batch in plan) < ranks  # only what no rank can go without
    for batch in (batch for plan in plans for batch in plan):
        assert batch.indices
        assert len(batch.indices) == 1 or sum(tokens[i] for i in batch.indices) <= budget
        assert most is None or len(batch.indices) <= most


def test_ranks_get_nearly_equal_work() -> None:
    tokens = {i: 10 + (i * 37) % 91 for i in range(64)}
    plans = plan_step(range(64), tokens, 4, 500)
    loads = [sum(tokens[i] for batch in plan for i in batch.indices) for plan in plans]
    assert max(loads) / min(loads) < 1.1
    assert imbalance(plans, tokens) == pytest.approx(max(loads) / (sum(loads) / 4))


def test_imbalance_counts_what_is_computed() -> None:
    one_long, alike = {0: 30, 1: 10}, dict.fromkeys(range(4), 7)
    assert imbalance(plan_step([0, 1], one_long, 1, 100), one_long) == 1
    assert imbalance(plan_step([0, 1], one_long, 2, 100), one_long) == 1.5
    assert imbalance(plan_step(range(4), alike, 2, 100), alike) == 1
    # A rank without a pair computes the shortest one with weight 0, and is as busy as if it counted.
    assert imbalance(plan_step([0], {0: 30}, 3, 100), {0: 30}) == 1


PAIRS = [TokenizedPair((1, 2, 3), (4, 5, 9), (6, 9)), TokenizedPair((7,), (8,), (2, 3, 4, 9))]


@pytest.mark.parametrize("layout", ["prefix_shared", "packed", "padded"])
def test_each_response_token_is_predicted_by_the_token_before_it(layout: str) -> None:
    batch = pack(PAIRS, [0.5, 0.5], layout)
    assert batch.labels.tolist() == [4, 5, 9, 6, 9, 8, 2, 3, 4, 9]
    assert batch.sequence_id.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3, 3]
    assert batch.input_ids[batch.predict_index].tolist() == [3, 4, 5, 3, 6, 7, 7, 2, 3, 4]
    assert batch.position_ids[batch.predict_index].tolist() == [2, 3, 4, 2, 3, 0, 0, 1, 2, 3]
    if layout != "padded":
        assert len(batch.input_ids) == sum(pair_tokens(pair, layout) for pair in PAIRS)


def test_shared_prompt_is_computed_once() -> None:
    assert len(pack(PAIRS, [1, 1], "prefix_shared").input_ids) == 4 + 2 + 1 + 0 + 3
    assert len(pack(PAIRS, [1, 1], "packed").input_ids) == 2 * 4 + 2 + 1 + 0 + 3


def test_rejected_tokens_do_not_see_chosen_ones() -> None:
    batch = pack(PAIRS[:1], [1.0], "prefix_shared")
    # 3 prompt tokens, 2 chosen inputs, 1 rejected input
    want = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 1, 0],
            [1, 1, 1, 0, 0, 1],
        ]
    ).bool()
    assert torch.equal(shared_mask(batch.attention, batch.branch)[0, 0], want)


@pytest.mark.parametrize("layout", ["prefix_shared", "packed"])
def test_every_rank_knows_the_imbalance_of_the_batches_that_are_packed(
    monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    pairs = [TokenizedPair((1,) * (3 + i % 7), (2,) * (2 + i % 5), (3,) * (1 + i % 11)) for i in range(13)]
    source = MicroBatches(pairs, DataConfig(layout=layout, tokens_per_micro_batch=40), torch.device("cpu"))
    monkeypatch.setattr(batches, "world_size", lambda: 3)
    steps = []
    for rank in range(3):
        monkeypatch.setattr(batches, "rank", lambda rank=rank: rank)
        steps.append(source.of(range(13)))
    packed = [sum(len(batch.input_ids) for group in step.groups(1) for batch in group.micro_batches) for step in steps]
    expected = max(packed) / (sum(packed) / 3)
    assert [step.imbalance for step in steps] == pytest.approx([expected] * 3) and expected > 1

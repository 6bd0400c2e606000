"""Which pair is trained on when: single pairs as ever, and one pair of each row that makes several."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from sparsepo_dist.contracts import TokenizedRow
from sparsepo_dist.data.batching import order as orders
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.pairs import TokenizedPairs
from sparsepo_dist.data.store.writer import in_memory
from sparsepo_dist.training.batches import MicroBatches, sample_order

STEP = 4


def pairs(*responses: tuple[int, int]) -> TokenizedPairs:
    """Rows of so many chosen and rejected responses; every response has ids of its own."""
    rows = [
        TokenizedRow(
            (1, number + 1), tuple((2, number, i) for i in range(chosen)),
            tuple((3, number, i) for i in range(rejected)), place=f"row {number}",
        )
        for number, (chosen, rejected) in enumerate(responses)
    ]  # fmt: skip
    return TokenizedPairs.of(in_memory(rows))


SINGLE = pairs(*[(1, 1)] * 10)
GROUPS = pairs(*[(1, 1), (2, 3), (4, 1), (1, 5), (3, 3), (2, 2), (1, 1), (5, 4), (1, 2), (3, 1)])


def epoch(source: TokenizedPairs, number: int, seed: int = 7) -> list[int]:
    order = sample_order(source, STEP, seed)
    steps = range(number * order.steps_per_epoch, (number + 1) * order.steps_per_epoch)
    return [index for step in steps for index in order.step(step)]


def test_single_pairs_are_in_the_order_that_they_always_were_in() -> None:
    assert epoch(SINGLE, 0) == [3, 1, 8, 7, 6, 2, 0, 5, 9, 4]
    for number in (0, 1, 5):
        generator = torch.Generator().manual_seed(7 * 1_000_003 + number)
        assert epoch(SINGLE, number) == torch.randperm(10, generator=generator).tolist()


def test_an_epoch_has_one_pair_of_each_row_and_the_rows_order_is_that_of_single_pairs() -> None:
    assert sample_order(GROUPS, STEP, 7).steps_per_epoch == 3
    for number in range(3):
        rows = [int(GROUPS[i].place.split()[1]) for i in epoch(GROUPS, number)]
        assert rows == epoch(SINGLE, number)


def test_pairs_are_drawn_afresh_and_evenly() -> None:
    found = [set(epoch(GROUPS, number)) for number in range(600)]
    drawn = Counter(index for part in found for index in part)
    assert found[0] != found[1] and len(drawn) == len(GROUPS)
    for row in range(GROUPS.rows):
        of_row = GROUPS.pairs_of_row(row)
        share = 600 / len(of_row)
        assert all(abs(drawn[index] - share) < 5 * share**0.5 for index in of_row)
    assert set(epoch(GROUPS, 0, seed=8)) != found[0]


def test_a_step_needs_no_step_before_it() -> None:
    wanted = [sample_order(GROUPS, STEP, 7).step(step) for step in range(9)]
    assert [sample_order(GROUPS, STEP, 7).step(step) for step in reversed(range(9))] == wanted[::-1]


def test_an_epoch_is_permuted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    orders._permutation.cache_clear()
    made, randperm = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: made.append(a) or randperm(*a, **k))
    order = sample_order(SINGLE, STEP, 7)
    for step in range(6):
        order.step(step)
    assert len(made) == 2


def test_evaluation_takes_one_pair_of_each_row_in_file_order_whatever_the_seed() -> None:
    batches = MicroBatches(GROUPS, DataConfig(layout="packed"), torch.device("cpu"))
    evaluated = batches.evaluated()
    assert [GROUPS[i].place for i in evaluated] == [f"row {n}" for n in range(10)] and evaluated == batches.evaluated()
    assert list(MicroBatches(SINGLE, DataConfig(layout="packed"), torch.device("cpu")).evaluated()) == list(range(10))

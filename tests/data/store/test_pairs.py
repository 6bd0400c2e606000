"""Sequences over columns: single pairs, parts, joined sources, groups of responses; and the memory that they take."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsepo_dist.contracts import TokenizedPair, TokenizedRow
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store import pairs as module
from sparsepo_dist.data.store.columns import Columns
from sparsepo_dist.data.store.pairs import NO_PAIRS, TokenizedPairs, lengths_of
from sparsepo_dist.data.store.writer import ColumnsWriter, Piece, in_memory
from sparsepo_dist.data.tokens.keys import pair_key
from sparsepo_dist.training.batches import MicroBatches, sample_order
from tests.data.store.test_build import old_fingerprint

MIB = 2**20
PLACES = ("file {seed}, row {number}", "{seed}.csv, line {number}", "{seed}, row 0{number}", "{number} rows of {seed}x")


def rows(count: int, seed: int, responses: int) -> list[TokenizedRow]:
    """Rows of up to so many chosen and rejected responses, some with scores, and none rejected where it is 0."""
    draw = np.random.default_rng(seed)

    def ids() -> tuple[int, ...]:
        return tuple(draw.integers(1, 500, int(draw.integers(1, 6))).tolist())

    def row(number: int) -> TokenizedRow:
        counts = draw.integers(1, responses + 1, 2).tolist() if responses else (1, 0)
        sides = [[ids() for _ in range(count)] for count in counts]
        scored = number % 3 == 0
        scores = [tuple(draw.random(len(side)).tolist()) if scored else () for side in sides]
        some = number % 4 == 1
        trained = [tuple(((0, 1),) if len(r) < 4 else ((0, 1), (2, 4)) for r in side) if some else () for side in sides]
        place = PLACES[number % 4].format(seed=seed, number=number)
        return TokenizedRow(ids(), tuple(sides[0]), tuple(sides[1]), *scores, place, *trained)

    return [row(number) for number in range(count)]


def mapped(folder: Path, given: list[TokenizedRow]) -> Columns:
    """Columns of an Arrow file."""
    folder.mkdir()
    writer = ColumnsWriter(folder)
    for start in range(0, len(given), 3):
        writer.add(Piece.of(given[start : start + 3]))
    writer.finish()
    return Columns.mapped(folder, writer.highest)


def flat(given: list[TokenizedRow]) -> list[TokenizedPair]:
    return [pair for row in given for pair in row.pairs()]


def assert_same(pairs: TokenizedPairs, want: list[TokenizedPair], count: int) -> None:
    """Everything that is asked of pairs, against the pairs themselves."""
    assert (len(pairs), pairs.rows) == (len(want), count)
    assert list(pairs) == want and [pair.place for pair in pairs] == [pair.place for pair in want]
    assert pairs[-1] == want[-1] and pairs[1:7:2] == want[1:7:2]
    lengths = [[len(p.prompt_ids), len(p.chosen_ids), len(p.rejected_ids)] for p in want]
    assert np.concatenate(list(pairs.lengths())).tolist() == lengths
    assert np.concatenate(list(lengths_of(want))).tolist() == lengths
    assert pairs.keys().tolist() == [pair_key(pair) for pair in want]
    if not pairs.grouped:
        assert pairs.fingerprint() == old_fingerprint(want)
    assert [i for row in range(pairs.rows) for i in pairs.pairs_of_row(row)] == list(range(len(want)))


@pytest.mark.parametrize("responses", [0, 1, 3])
def test_sources_their_parts_and_mixtures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, responses: int) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    one, two = rows(11, 1, responses), rows(6, 2, responses)
    left, right = TokenizedPairs.of(mapped(tmp_path / "one", one)), TokenizedPairs.of(in_memory(two))
    assert_same(left, flat(one), 11)
    assert_same(left.taken(range(2, 9)), flat(one[2:9]), 7)
    both = left.joined(right)
    assert_same(both, flat(one + two), 17)
    assert_same(both.taken(range(8, 15)), flat((one + two)[8:15]), 7)
    order = [13, 0, 16, 4, 4, 12, 10]
    assert_same(both.taken(order), flat([(one + two)[i] for i in order]), 7)
    assert_same(both.taken(order).taken(range(1, 6)), flat([(one + two)[i] for i in order[1:6]]), 5)
    assert_same(right.taken([5, 1]).joined(left), flat([two[5], two[1], *one]), 13)
    assert both.highest_id() == max(max(ids) for r in one + two for ids in (r.prompt_ids, *r.chosen, *r.rejected))
    assert_same(left.joined(NO_PAIRS), flat(one), 11)


def test_the_same_pairs_in_other_rows_are_other_data() -> None:
    together, first, second = (
        TokenizedRow((1,), chosen, ((4,),), place="row 1") for chosen in (((2,), (3,)), ((2,),), ((3,),))
    )
    one, two = TokenizedPairs.of(in_memory([together])), TokenizedPairs.of(in_memory([first, second]))
    assert list(one) == list(two) and one.fingerprint() != two.fingerprint()
    twice = one.joined(TokenizedPairs.of(in_memory([first])))
    assert twice.fingerprint() not in (one.joined(one).fingerprint(), two.joined(one).fingerprint())


def test_no_pairs_at_all() -> None:
    assert not NO_PAIRS and NO_PAIRS.fingerprint() == old_fingerprint([]) and list(NO_PAIRS.lengths()) == []
    nothing = TokenizedPairs.of(in_memory(rows(3, 0, 1))).taken(range(3, 3))
    assert len(nothing) == 0 and nothing.fingerprint() == old_fingerprint([])
    with pytest.raises(IndexError):
        nothing[0]


def many(folder: Path, count: int) -> TokenizedPairs:
    """HH-like pairs: prompts of 150 tokens, responses of 40 to 100; a thousand of them again and again."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    given = [
        TokenizedRow(*(tuple(draw.integers(0, 49_000, 150).tolist()) for _ in range(1)),
                     *((tuple(draw.integers(0, 49_000, int(draw.integers(40, 101))).tolist()),) for _ in range(2)),
                     place=f"file, row {number}")
        for number in range(1000)
    ]  # fmt: skip
    writer, piece = ColumnsWriter(folder), Piece.of(given)
    for _ in range(count // len(given)):
        writer.add(piece)
    writer.finish()
    return TokenizedPairs.of(Columns.mapped(folder, writer.highest))


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def used(columns: Callable[[], Columns]) -> int:
    """Bytes that a process of its own keeps more, once it has done all that a rank does with the pairs."""

    def measured(answer: multiprocessing.SimpleQueue[int]) -> None:
        torch.set_num_threads(1)  # OpenMP's threads are not there after a fork, and are waited for
        before = anonymous_bytes()
        pairs = TokenizedPairs.of(columns())
        cut = pairs.rows - 100
        train, heldout = pairs.taken(range(cut)), pairs.taken(range(cut, pairs.rows))
        batches = MicroBatches(train, DataConfig(layout="prefix_shared"), torch.device("cpu"))
        order = sample_order(train, 16, 0)
        for step in (0, 1, order.steps_per_epoch, 2 * order.steps_per_epoch - 1):
            list(batches.of(order.step(step)).groups(1))
        kept = [train, heldout, batches, order, sum(int(part.sum()) for part in pairs.lengths())]
        answer.put(anonymous_bytes() - before if kept else 0)

    context = multiprocessing.get_context("fork")
    answer: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    process = context.Process(target=measured, args=[answer])
    process.start()
    process.join()
    return answer.get()


def test_memory_does_not_grow_with_the_pairs(tmp_path: Path) -> None:
    """But for one epoch's permutation, of eight bytes a row; the tokens of the larger one are 170 MiB."""
    sizes = []
    for count in (1000, 150_000):
        folder = tmp_path / str(count)
        assert many(folder, count).rows == count
        sizes.append(used(lambda folder=folder: Columns.mapped(folder, 49_000)))
    assert sizes[1] < 60 * MIB and sizes[1] - sizes[0] < 150_000 * 8 + 24 * MIB

"""How many rows of each source a mixture takes, and which."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.mixture import chosen_rows, off_the_end, taken
from sparsepo_dist.data.reading.named import SourceSpec
from sparsepo_dist.errors import UserError


def specs(*wanted: Any) -> list[SourceSpec]:
    """Whole numbers are pairs, others weights, None is all."""
    return [
        SourceSpec(f"s{place}", **({} if one is None else {"pairs": one} if isinstance(one, int) else {"weight": one}))
        for place, one in enumerate(wanted)
    ]


@pytest.mark.parametrize(
    ("counts", "wanted", "sizes"),
    [
        ((5, 7), (None, None), [5, 7]),
        ((5, 7), (None, 3), [5, 3]),
        ((5, 7), (5, 7), [5, 7]),
        ((700, 1000), (None, 0.3), [700, 300]),  # the other source is whole
        ((700, 30), (None, 0.3), [70, 30]),  # this one is
        ((100, 300, 300), (None, None, 0.5), [75, 225, 300]),  # the rest in proportion to what there is
        ((1000, 1000), (3.0, 1.0), [1000, 333]),
        ((10, 1000), (0.1, 0.2), [10, 20]),  # shares of what they are together
        ((100, 100, 100), (0.1, 0.2, 0.7), [14, 28, 100]),
    ],
)
def test_sizes(counts: tuple[int, ...], wanted: tuple[Any, ...], sizes: list[int]) -> None:
    assert taken(counts, specs(*wanted)) == sizes


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 99).map(lambda hundredths: hundredths / 100)), min_size=1)
)
def test_shares_are_kept_and_no_larger_mixture_has_them(sources: list[tuple[int, float]]) -> None:
    counts = [count for count, _ in sources]
    shares = [Fraction(str(weight)) for _, weight in sources]
    try:
        sizes = taken(counts, specs(*(weight for _, weight in sources)))
    except UserError:
        return
    whole = min(count / share for count, share in zip(counts, shares, strict=True))
    assert all(0 <= share * whole - size < 1 for share, size in zip(shares, sizes, strict=True))
    assert all(size <= count for count, size in zip(counts, sizes, strict=True))
    assert any(size == count for count, size in zip(counts, sizes, strict=True))


def test_rows_are_drawn_by_the_seed_without_replacement() -> None:
    counts, wanted = (50, 40, 40), specs(20, 40, 20)
    chosen = chosen_rows(counts, wanted, seed=3)
    assert [list(rows) for rows in chosen_rows(counts, wanted, seed=3)] == [list(rows) for rows in chosen]
    assert list(chosen[1]) == list(range(40))
    for rows, count in zip(chosen, counts, strict=True):
        assert list(rows) == sorted(set(rows)) and set(rows) <= set(range(count))
    assert [len(rows) for rows in chosen] == [20, 40, 20]
    others = chosen_rows(counts, wanted, seed=4)
    assert others[0] != chosen[0] and others[2] != chosen[2]
    assert chosen_rows((40, 40), specs(20, 20), seed=0)[0] != chosen_rows((40, 40), specs(20, 20), seed=0)[1]


def test_every_row_is_as_likely_as_another() -> None:
    found = [0] * 10
    for seed in range(2000):
        for row in chosen_rows((10,), specs(3), seed)[0]:
            found[row] += 1
    assert all(abs(count - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5 for count in found)


def test_more_than_there_is_and_less_than_one_are_refused() -> None:
    with pytest.raises(UserError, match=r"s1: 8 pairs of it are wanted \(pairs\), and 7 are usable"):
        taken((5, 7), specs(5, 8))
    with pytest.raises(UserError, match="s0: its weight asks for less than one of its 100 pairs"):
        taken((100, 5), specs(0.01, 0.99))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.data())
def test_what_is_held_out_is_shared_in_proportion(sizes: list[int], data: st.DataObject) -> None:
    wanted = data.draw(st.integers(0, sum(sizes)))
    found = off_the_end(sizes, wanted)
    assert sum(found) == wanted
    for size, off in zip(sizes, found, strict=True):
        assert abs(off - Fraction(size * wanted, sum(sizes))) < 1 and 0 <= off <= size


@pytest.mark.parametrize("seed", [-1, 2**32, 20261130120000])
def test_a_seed_that_no_generator_takes_is_refused_before_anything_is_read(seed: int) -> None:
    with pytest.raises(UserError, match=rf"data.mixture_seed: {seed} must be in \[0, 2\*\*32\)"):
        DataConfig(mixture_seed=seed).validate()
    DataConfig(mixture_seed=2**32 - 1).validate()
    assert len(chosen_rows((5,), specs(3), 2**32 - 1)[0]) == 3

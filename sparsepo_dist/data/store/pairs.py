"""The pairs of a run: a sequence over mapped columns, of which rows may be taken and to which others may be joined."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, overload

import numpy as np

from sparsepo_dist.contracts import Spans, TokenizedPair
from sparsepo_dist.data.store.columns import Columns, Ints
from sparsepo_dist.data.tokens.keys import spans_told

CHUNK = 1 << 16
"""Rows that are looked at together where all are: what memory that takes does not grow with them."""


class Run(NamedTuple):
    """Neighbouring rows of a source."""

    columns: Columns
    start: int
    stop: int


class TokenizedPairs(Sequence[TokenizedPair]):
    """P pairs of R rows. A row of one chosen and at most one rejected response is one pair; of several, every chosen
    response makes one with every rejected one, the rejected ones changing faster. Nothing is read before it is asked
    for, and nothing is kept.
    """

    def __init__(self, runs: Sequence[Run], order: Ints | None = None) -> None:
        """`order` [R] are places in the rows of all runs, one after the other, where not all of them are taken as they
        stand."""
        self._runs, self._order = tuple(runs), order
        self._ends = list(accumulate(run.stop - run.start for run in self._runs))
        self.rows: int = len(order) if order is not None else (self._ends[-1] if self._ends else 0)
        """R."""
        self._first_pairs = self._counted()

    @classmethod
    def of(cls, columns: Columns) -> TokenizedPairs:
        """All rows of a source."""
        return cls([Run(columns, 0, columns.rows)])

    def __len__(self) -> int:
        return self.rows if self._first_pairs is None else int(self._first_pairs[-1])

    @overload
    def __getitem__(self, index: int) -> TokenizedPair: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedPair]: ...
    def __getitem__(self, index: int | slice) -> TokenizedPair | list[TokenizedPair]:
        """A pair, or a list of those of a slice.

        Raises:
            RankError: what is read is not what was written.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        index %= len(self)
        row = index if self._first_pairs is None else int(np.searchsorted(self._first_pairs, index, side="right")) - 1
        run, place = self._found(row)
        return run.columns.pair(place, index - self.pairs_of_row(row).start)

    def pairs_of_row(self, row: int) -> range:
        """Indices of the pairs of a row."""
        if self._first_pairs is None:
            return range(row, row + 1)
        return range(int(self._first_pairs[row]), int(self._first_pairs[row + 1]))

    @property
    def grouped(self) -> bool:
        """Whether some row makes several pairs."""
        return self._first_pairs is not None

    def taken(self, rows: Sequence[int] | Ints) -> TokenizedPairs:
        """Some of the rows, in that order; neighbours as a `range` take no memory."""
        if isinstance(rows, range) and rows.step == 1 and self._order is None:
            runs = [
                Run(run.columns, run.start + max(rows.start - end + run.stop - run.start, 0),
                    run.stop - max(end - rows.stop, 0))
                for run, end in zip(self._runs, self._ends, strict=True)
            ]  # fmt: skip
            return TokenizedPairs([run for run in runs if run.start < run.stop])
        order = np.asarray(rows, dtype=np.int64)
        return TokenizedPairs(self._runs, order if self._order is None else self._order[order])

    def joined(self, others: TokenizedPairs) -> TokenizedPairs:
        """These rows and, behind them, those of others."""
        order = None
        if self._order is not None or others._order is not None:
            before = self._ends[-1] if self._ends else 0
            order = np.concatenate([self._places(), others._places() + before])
        return TokenizedPairs((*self._runs, *others._runs), order)

    def highest_id(self) -> int:
        """The greatest token id of the sources that rows are taken from."""
        return max(run.columns.highest for run in self._runs)

    def lengths(self) -> Iterator[Ints]:
        """Tokens of prompt, chosen and rejected response [pairs, 3] of all pairs, many at once."""
        for start in range(0, self.rows, CHUNK):
            rows = np.arange(start, min(start + CHUNK, self.rows))
            found = np.empty((int(self._counts(rows).sum()), 3), dtype=np.int64)
            for columns, members, pairs, places in self._by_source(rows):
                assert len(members) == len(places)
                found[pairs] = columns.lengths(places)
            yield found

    def keys(self) -> Ints:
        """[P]: what names each pair in a reference cache (`pair_key`)."""
        found = np.empty(len(self), dtype=np.int64)
        for start in range(0, self.rows, CHUNK):
            rows = np.arange(start, min(start + CHUNK, self.rows))
            first = self.pairs_of_row(start).start
            for columns, members, pairs, places in self._by_source(rows):
                counts = self._counts(rows[members])
                nth = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
                found[first + pairs] = columns.keys[np.repeat(columns.first_pairs[places], counts) + nth]
        return found

    def fingerprint(self) -> str:
        """SHA-256 of every token id and score, which tokens are trained on, and which pairs make a row, in order."""
        known = self._runs[0].columns.fingerprint if self._runs else None
        if known is not None and self._is_one_source():
            return known
        digest = hashlib.sha256()
        for row in range(self.rows):
            run, place = self._found(row)
            found = run.columns.row(place)
            body = memoryview(found.ids.astype("<i8").tobytes())
            parts = [
                (b - a).to_bytes(8, "little") + body[8 * a : 8 * b]
                for a, b in zip(found.bounds[:-1], found.bounds[1:], strict=True)
            ]
            for nth in range(len(self.pairs_of_row(row))):
                chosen, rejected = found.sequences(nth)
                last, trained = _NOTHING, _NO_SPANS
                if rejected is not None:
                    last, trained = parts[rejected], found.trained[rejected]
                told = spans_told(found.trained[chosen], trained) + repr(found.scores_of(nth)).encode()
                digest.update(parts[0] + parts[chosen] + last + told)
            if len(self.pairs_of_row(row)) > 1:  # an epoch has one of them, so that rows apart would be other data
                digest.update(len(self.pairs_of_row(row)).to_bytes(8, "little"))
        return digest.hexdigest()

    def _counted(self) -> Ints | None:
        """[R + 1]: pairs before each row, and of all; None where each row is one pair."""
        if all(len(run.columns.keys) == run.columns.rows for run in self._runs):
            return None
        if self._is_one_source():
            return self._runs[0].columns.first_pairs
        counts = [np.diff(run.columns.first_pairs[run.start : run.stop + 1]) for run in self._runs]
        each = np.concatenate(counts) if self._order is None else np.concatenate(counts)[self._order]
        return np.concatenate([[0], np.cumsum(each)])

    def _is_one_source(self) -> bool:
        return len(self._runs) == 1 and self._order is None and self.rows == self._runs[0].columns.rows

    def _counts(self, rows: Ints) -> Ints:
        if self._first_pairs is None:
            return np.ones(len(rows), dtype=np.int64)
        return self._first_pairs[rows + 1] - self._first_pairs[rows]

    def _places(self) -> Ints:
        return np.arange(self.rows) if self._order is None else self._order

    def _found(self, row: int) -> tuple[Run, int]:
        """The run that a row is in, and its place in the run's source."""
        place = row if self._order is None else int(self._order[row])
        number = bisect_right(self._ends, place)
        run = self._runs[number]
        return run, run.stop - self._ends[number] + place

    def _by_source(self, rows: Ints) -> Iterator[tuple[Columns, Ints, Ints, Ints]]:
        """Of neighbouring rows, for each source: its columns, which of the rows are its own, which of all their pairs,
        and the rows' places in the source."""
        places = rows if self._order is None else self._order[rows]
        numbers = np.searchsorted(self._ends, places, side="right")
        of_pairs = np.repeat(numbers, self._counts(rows))
        for number in np.unique(numbers):
            members, run = np.flatnonzero(numbers == number), self._runs[number]
            start = run.stop - self._ends[number]
            yield run.columns, members, np.flatnonzero(of_pairs == number), places[members] + start


def lengths_of(pairs: Sequence[TokenizedPair]) -> Iterator[Ints]:
    """As `TokenizedPairs.lengths`, of any pairs; those that are in memory at once."""
    if isinstance(pairs, TokenizedPairs):
        yield from pairs.lengths()
    else:
        each = [(len(pair.prompt_ids), len(pair.chosen_ids), len(pair.rejected_ids)) for pair in pairs]
        yield np.array(each, dtype=np.int64).reshape(-1, 3)


_NO_SPANS: Spans = ()
_NOTHING = (0).to_bytes(8, "little")
NO_PAIRS = TokenizedPairs([])

"""The token ids of a source as columns of Arrow files, mapped into memory.

    tokens.arrow      id [T]                                    of all sequences, one after the other
    sequences.arrow   start, score, span [S + 1]                a prompt, its chosen responses, its rejected ones
    spans.arrow       begin, end [X]                            what is trained on of responses, where not all is
    rows.arrow        sequence, pair, chosen, number, file [R + 1]
    pairs.arrow       key [P]                                   of every chosen response with every rejected one
    files.arrow       name [F]                                  what the places of rows begin with, before a number

Each is one record batch. Sequences and rows have one entry more than there are: where the last one ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow

from sparsepo_dist.contracts import Spans, TokenizedPair
from sparsepo_dist.data.tokens.keys import pair_key
from sparsepo_dist.errors import RankError

Ints = npt.NDArray[np.int64]
TOKENS, FILES = "tokens", "files"
SCHEMAS: dict[str, dict[str, str]] = {
    TOKENS: {"id": "int32"},
    "sequences": {"start": "int64", "score": "double", "span": "int64"},
    "spans": {"begin": "int32", "end": "int32"},
    "rows": {"sequence": "int64", "pair": "int64", "chosen": "int32", "number": "int64", "file": "int32"},
    "pairs": {"key": "int64"},
}
"""Columns and their types; besides them there is the name [F] of FILES."""
NO_NUMBER = -1
"""Of a row whose place does not end with one."""


class StoredRow(NamedTuple):
    """One row, as it is stored."""

    ids: npt.NDArray[np.int32]
    """Of all its sequences."""
    bounds: list[int]
    """Where in `ids` each sequence begins, and where the last one ends: prompt, chosen responses, rejected ones."""
    scores: list[float]
    """Of each sequence; NaN where there is none."""
    chosen: int
    """How many chosen responses."""
    trained: list[Spans]
    """Of each sequence."""

    @property
    def rejected(self) -> int:
        """How many rejected responses."""
        return len(self.bounds) - 2 - self.chosen

    def sequences(self, nth: int) -> tuple[int, int | None]:
        """Which sequences the nth pair's chosen and rejected response are."""
        left, right = divmod(nth, max(self.rejected, 1))
        return 1 + left, 1 + self.chosen + right if self.rejected else None

    def scores_of(self, nth: int) -> tuple[float, float] | None:
        """Scores of the nth pair, where it has both."""
        chosen, rejected = self.sequences(nth)
        if rejected is None or np.isnan(self.scores[chosen]) or np.isnan(self.scores[rejected]):
            return None
        return self.scores[chosen], self.scores[rejected]


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of one source, R rows and P pairs, and what is known of them as a whole."""

    folder: Path
    ids: npt.NDArray[np.int32]
    starts: Ints
    scores: npt.NDArray[np.float64]
    first_spans: Ints
    begins: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]
    first_sequences: Ints
    first_pairs: Ints
    chosen: npt.NDArray[np.int32]
    numbers: Ints
    files: npt.NDArray[np.int32]
    keys: Ints
    names: Sequence[Any]
    """Arrow strings [F]."""
    highest: int
    """The greatest token id."""
    fingerprint: str | None = None
    """Of all pairs (`TokenizedPairs.fingerprint`), where it is known."""

    @classmethod
    def mapped(cls, folder: Path, highest: int, fingerprint: str | None = None) -> Columns:
        """The columns in a folder.

        Raises:
            OSError, ValueError, KeyError: a file is not there, no Arrow file, or of another form.
        """
        found: dict[str, list[Any]] = {}
        for name, schema in SCHEMAS.items():
            batch = open_batch(folder, name)
            found[name] = [batch.column(column).to_numpy() for column in schema]
            if [str(kind) for kind in batch.schema.types] != list(schema.values()):
                raise ValueError(f"{name}.arrow has columns of other types")
        names = open_batch(folder, FILES).column("name")
        arrays = [array for name in SCHEMAS for array in found[name]]
        columns = cls(folder, *arrays, names, highest, fingerprint)  # type: ignore[call-arg]
        columns._check()
        return columns

    def _check(self) -> None:
        """Raise ValueError where columns do not go together."""
        sizes = (len(self.ids), len(self.begins), len(self.starts) - 1, len(self.keys))
        lasts = (self.starts[-1], self.first_spans[-1], self.first_sequences[-1], self.first_pairs[-1])
        if tuple(map(int, lasts)) != sizes:
            raise ValueError("its columns are of different lengths")

    @property
    def rows(self) -> int:
        """R."""
        return len(self.first_pairs) - 1

    def row(self, row: int) -> StoredRow:
        """A row, its ids still mapped."""
        first, end = int(self.first_sequences[row]), int(self.first_sequences[row + 1])
        starts = self.starts[first : end + 1].tolist()
        bounds = [start - starts[0] for start in starts]
        ids = self.ids[starts[0] : starts[-1]]
        scores = self.scores[first:end].tolist()
        return StoredRow(ids, bounds, scores, int(self.chosen[row]), self._trained(first, end))

    def _trained(self, first: int, end: int) -> list[Spans]:
        """Of neighbouring sequences."""
        if self.first_spans[first] == self.first_spans[end]:
            return [()] * (end - first)
        places = self.first_spans[first : end + 1].tolist()
        return [
            tuple(zip(self.begins[a:b].tolist(), self.ends[a:b].tolist(), strict=True)) for a, b in pairwise(places)
        ]

    def place(self, row: int) -> str:
        """Where a person finds a row."""
        name, number = str(self.names[int(self.files[row])].as_py()), int(self.numbers[row])
        return name if number == NO_NUMBER else f"{name}{number}"

    def pair(self, row: int, nth: int) -> TokenizedPair:
        """A row's nth pair, held against its key.

        Raises:
            RankError: it is not what was written.
        """
        found, place = self.row(row), self.place(row)
        chosen, rejected = found.sequences(nth)
        texts = [
            () if sequence is None else tuple(found.ids[found.bounds[sequence] : found.bounds[sequence + 1]].tolist())
            for sequence in (0, chosen, rejected)
        ]
        trained = found.trained[chosen], () if rejected is None else found.trained[rejected]
        pair = TokenizedPair(texts[0], texts[1], texts[2], found.scores_of(nth), place, *trained)
        if pair_key(pair) != int(self.keys[int(self.first_pairs[row]) + nth]):
            raise RankError(
                f"data.cache: {self.folder} has changed since it was written ({place}); remove that folder, and the "
                "next start makes it anew"
            )
        return pair

    def lengths(self, rows: Ints) -> Ints:
        """[pairs of these rows, 3]: tokens of prompt, chosen and rejected response, 0 where there is none."""
        first, chosen = self.first_sequences[rows], self.chosen[rows].astype(np.int64)
        rejected = self.first_sequences[rows + 1] - first - 1 - chosen
        counts = self.first_pairs[rows + 1] - self.first_pairs[rows]
        at = np.repeat(np.arange(len(rows)), counts)
        nth = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        each = np.maximum(rejected, 1)[at]
        left = first[at] + 1 + nth // each
        right = np.minimum(first[at] + 1 + chosen[at] + nth % each, len(self.starts) - 2)
        tokens = [self.starts[sequence + 1] - self.starts[sequence] for sequence in (first[at], left, right)]
        tokens[2] = np.where(rejected[at] > 0, tokens[2], 0)
        return np.stack(tokens, axis=1)


def open_batch(folder: Path, name: str) -> Any:
    """The record batch of a mapped Arrow file; nothing of it is read yet.

    Raises:
        OSError, ValueError: it is not there, or no Arrow file of one record batch.
    """
    with pyarrow.ipc.open_file(pyarrow.memory_map(str(folder / f"{name}.arrow"))) as reader:
        if reader.num_record_batches != 1:
            raise ValueError(f"{name}.arrow has {reader.num_record_batches} record batches instead of 1")
        return reader.get_batch(0)

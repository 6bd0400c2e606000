"""Columns are written: appended to plain files while rows come, then made Arrow files of one record batch each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow

from sparsepo_dist.contracts import Spans, TokenizedRow
from sparsepo_dist.data.store.columns import FILES, NO_NUMBER, SCHEMAS, TOKENS, Columns
from sparsepo_dist.data.tokens.keys import pair_key

_PLACE = re.compile(r"(.*\D)(0|[1-9]\d{0,17})", re.DOTALL)


class Piece(NamedTuple):
    """Some rows as columns, r of them: what processes hand to each other."""

    ids: npt.NDArray[np.int32]
    """Of all their sequences."""
    lengths: npt.NDArray[np.int64]
    """Of each sequence."""
    scores: npt.NDArray[np.float64]
    """Of each sequence; NaN where there is none."""
    spans: npt.NDArray[np.int64]
    """Of each sequence: how many."""
    trained: npt.NDArray[np.int64]
    """[spans, 2]: begin and end of all of them."""
    sequences: npt.NDArray[np.int64]
    """[r]: how many sequences."""
    chosen: npt.NDArray[np.int64]
    """[r]: how many chosen responses."""
    pairs: npt.NDArray[np.int64]
    """[r]."""
    keys: npt.NDArray[np.int64]
    """Of each pair."""
    places: list[str]
    """[r]."""

    @classmethod
    def of(cls, rows: Sequence[TokenizedRow]) -> Piece:
        """These rows."""
        texts = [(row.prompt_ids, *row.chosen, *row.rejected) for row in rows]
        each = [ids for row in texts for ids in row]
        spans = [sequence for row in rows for sequence in _trained(row)]
        keys = [[pair_key(pair) for pair in row.pairs()] for row in rows]
        return cls(
            np.fromiter((i for ids in each for i in ids), np.int32),
            np.fromiter(map(len, each), np.int64),
            np.array([score for row in rows for score in _scores(row)], np.float64),
            np.fromiter(map(len, spans), np.int64),
            np.array([span for sequence in spans for span in sequence], np.int64).reshape(-1, 2),
            np.fromiter(map(len, texts), np.int64),
            np.fromiter((len(row.chosen) for row in rows), np.int64),
            np.fromiter(map(len, keys), np.int64),
            np.array([key for row in keys for key in row], np.int64),
            [row.place for row in rows],
        )


def _scores(row: TokenizedRow) -> list[float]:
    none = float("nan")
    found = [none]
    for responses, scores in ((row.chosen, row.chosen_scores), (row.rejected, row.rejected_scores)):
        found += scores or [none] * len(responses)
    return found


def _trained(row: TokenizedRow) -> list[Spans]:
    found: list[Spans] = [()]
    for responses, trained in ((row.chosen, row.chosen_trained), (row.rejected, row.rejected_trained)):
        found += trained or [()] * len(responses)
    return found


class ColumnsWriter:
    """Writes the columns of a source to a folder.

    Raises:
        OSError: they cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = {
            (name, column): (folder / f"{name}.{column}").open("wb")
            for name, schema in SCHEMAS.items()
            for column in schema
        }
        self._names: dict[str, int] = {}
        self.rows = self.pairs = self.tokens = self._sequences = self._spans = 0
        self.highest = 0
        """The greatest token id so far."""

    def add(self, piece: Piece) -> None:
        """Append rows."""
        if not piece.places:
            return
        places = [self._split(place) for place in piece.places]
        self._append(TOKENS, id=piece.ids)
        self._append(
            "sequences", start=_before(piece.lengths) + self.tokens, score=piece.scores,
            span=_before(piece.spans) + self._spans,
        )  # fmt: skip
        self._append("spans", begin=piece.trained[:, 0], end=piece.trained[:, 1])
        self._append(
            "rows", sequence=_before(piece.sequences) + self._sequences, pair=_before(piece.pairs) + self.pairs,
            chosen=piece.chosen, number=[number for _, number in places], file=[file for file, _ in places],
        )  # fmt: skip
        self._append("pairs", key=piece.keys)
        self.tokens += len(piece.ids)
        self._sequences += len(piece.lengths)
        self._spans += len(piece.trained)
        self.rows += len(piece.places)
        self.pairs += len(piece.keys)
        self.highest = max(self.highest, int(piece.ids.max()))

    def finish(self) -> None:
        """Make the Arrow files."""
        self._append("sequences", start=[self.tokens], score=[float("nan")], span=[self._spans])
        self._append("rows", sequence=[self._sequences], pair=[self.pairs], chosen=[0], number=[0], file=[0])
        self.close()
        for name, schema in SCHEMAS.items():
            mapped = {column: self._mapped(name, column, kind) for column, kind in schema.items()}
            _write(self._folder / f"{name}.arrow", mapped)
            for column in schema:
                (self._folder / f"{name}.{column}").unlink()
        _write(self._folder / f"{FILES}.arrow", {"name": pyarrow.array(list(self._names), pyarrow.string())})

    def close(self) -> None:
        """Close the files that are appended to."""
        for file in self._open.values():
            file.close()

    def _split(self, place: str) -> tuple[int, int]:
        """The number of what a place begins with, and that of the row."""
        match = _PLACE.fullmatch(place)
        name, number = (match[1], int(match[2])) if match else (place, NO_NUMBER)
        return self._names.setdefault(name, len(self._names)), number

    def _append(self, name: str, **columns: Any) -> None:
        for column, values in columns.items():
            self._open[name, column].write(np.asarray(values, dtype=SCHEMAS[name][column]).tobytes())

    def _mapped(self, name: str, column: str, kind: str) -> pyarrow.Array:
        path = self._folder / f"{name}.{column}"
        if not path.stat().st_size:
            return pyarrow.nulls(0, pyarrow.type_for_alias(kind))  # of a list it makes an array with pandas' help
        values = np.memmap(path, dtype=kind, mode="r")
        buffers = [None, pyarrow.py_buffer(values)]
        return pyarrow.Array.from_buffers(pyarrow.type_for_alias(kind), len(values), buffers)


def in_memory(rows: Sequence[TokenizedRow]) -> Columns:
    """Columns that are on no disk."""
    piece, last = Piece.of(rows), len(rows)
    starts, spans, first, pairs = (
        np.concatenate([[0], np.cumsum(counts)])
        for counts in (piece.lengths, piece.spans, piece.sequences, piece.pairs)
    )
    begins, ends = piece.trained.astype(np.int32).T
    return Columns(
        Path(), piece.ids, starts, np.append(piece.scores, np.nan), spans, begins, ends, first, pairs,
        np.append(piece.chosen, 0).astype(np.int32), np.full(last + 1, NO_NUMBER), np.arange(last + 1, dtype=np.int32),
        piece.keys, pyarrow.array(piece.places, pyarrow.string()), int(piece.ids.max()),
    )  # fmt: skip


def _before(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many there are before each."""
    return np.cumsum(counts) - counts


def _write(path: Path, columns: dict[str, pyarrow.Array]) -> None:
    batch = pyarrow.record_batch(list(columns.values()), names=list(columns))
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)

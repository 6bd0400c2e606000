"""A source becomes columns: read and checked here, tokenised by several processes, written as it comes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import Row, RowError
from sparsepo_dist.data.rows.pairs import open_rows
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.data.store.columns import Columns
from sparsepo_dist.data.store.pairs import TokenizedPairs
from sparsepo_dist.data.store.workers import AT_ONCE, Rows, Tokenizing, in_order
from sparsepo_dist.data.store.writer import ColumnsWriter
from sparsepo_dist.errors import UserError, shortened


class Built(NamedTuple):
    """What is known of a source as a whole."""

    read: int
    """Rows, bad ones too."""
    rows: int
    pairs: int
    highest: int
    """The greatest token id."""
    fingerprint: str
    """Of all pairs (`TokenizedPairs.fingerprint`)."""
    remarks: list[str]
    """For the user."""
    dropped: list[tuple[str, int, str, str]]
    """Of each reason why rows were dropped: itself, how many rows, place and reason of the first."""


def build(
    folder: Path, source: str, tokenizer: PreTrainedTokenizerBase, config: DataConfig, *, scored: bool,
    needs_rejected: bool, bar: bool,
) -> Built:  # fmt: skip
    """Write the columns of a source to a folder.

    Raises:
        UserError: a bad row under `on_bad_row` "stop", no usable row at all, or a source that cannot be read.
        RunError: a process was killed.
        OSError: the folder cannot be written.
    """
    remarks = Remarks()
    form, rows = open_rows(source, config, remarks, needs_rejected=needs_rejected or config.swap)
    tokenizing = Tokenizing(tokenizer, config, form, scored=scored, needs_rejected=needs_rejected)
    counts = [Counter[str]() for _ in tokenizing.parts]
    workers = config.workers or len(os.sched_getaffinity(0))
    with (
        closing(ColumnsWriter(folder)) as writer,
        tqdm(desc=f"reading {shortened(Path(source).name)}", unit="row", disable=not bar) as progress,
        closing(in_order(tokenizing, _portions(rows), workers)) as results,
    ):
        for done in results:
            remarks.merge(done.remarks)
            for total, count in zip(counts, done.counts, strict=True):
                total.update(count)
            writer.add(done.piece)
            progress.update(done.rows)
        said = [*remarks.lines(), *tokenizing.remarks(counts)]
        if not writer.pairs:
            raise UserError("; ".join([f"{source}: no usable pair is left", *said]))
        writer.finish()
    pairs = TokenizedPairs.of(Columns.mapped(folder, writer.highest))
    dropped = [
        (name, count, remarks.first[name].place, remarks.first[name].reason) for name, count in remarks.dropped.items()
    ]
    return Built(remarks.rows, writer.rows, writer.pairs, writer.highest, pairs.fingerprint(), said, dropped)


def _portions(rows: Iterator[Row | RowError]) -> Iterator[Rows]:
    """Neighbouring rows; where reading fails, those before come first, of which one may be worse."""
    portion: Rows = []
    try:
        for row in rows:
            portion.append(row)
            if len(portion) == AT_ONCE:
                yield portion
                portion = []
    except UserError:
        yield portion
        raise
    yield portion

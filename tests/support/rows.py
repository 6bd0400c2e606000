"""Rows as the data room hands them on: made by hand, or read in one process and not tokenised."""

from __future__ import annotations

from collections.abc import Iterator

from sparsepo_dist.contracts import PreferenceRow, Side
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.rows.pairs import open_rows, parse_row
from sparsepo_dist.data.rows.remarks import Remarks, refuse_or_skip


def pair_row(prompt: Side, chosen: Side, rejected: Side) -> PreferenceRow:
    """A row of one chosen and one rejected response."""
    return PreferenceRow(prompt, (chosen,), (rejected,))


def load_pairs(
    source: str, config: DataConfig, remarks: Remarks | None = None, *, needs_rejected: bool = False
) -> Iterator[tuple[str, PreferenceRow]]:
    """(place, row) of every good row of a source; `remarks` is filled on the way.

    Raises:
        UserError: a bad row and `on_bad_row` is "stop", a source that cannot be read, or one whose form is not wanted.
    """
    remarks = Remarks() if remarks is None else remarks
    form, rows = open_rows(source, config, remarks, needs_rejected=needs_rejected)
    for row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            yield row.place, parse_row(row, form, remarks)
        except RowError as bad:
            refuse_or_skip(bad, config.on_bad_row, remarks)

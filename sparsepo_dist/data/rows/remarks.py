"""What a user must know of the rows of a source besides the pairs that they become."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.errors import UserError, shortened

_MOST_COLUMNS = 100
_MOST_REASONS = 3


@dataclass
class Remarks:
    """Counts over rows; those of parts of a source can be merged."""

    rows: int = 0
    """Rows that were read, bad ones too."""
    read_as: str | None = None
    """The form of the rows, where it is not our own."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Bad rows by reason; rows whose reasons differ in numbers alone count as one."""
    first: dict[str, RowError] = field(default_factory=dict)
    """The first row of each reason."""
    repeating: int = 0
    """Rows whose responses all began with the prompt."""
    unpaired: int = 0
    """Posts whose rated summaries make no pair."""
    unused: dict[str, None] = field(default_factory=dict)
    """Columns that hold something and are not read, in the order in which they were met."""

    def lines(self) -> list[str]:
        """One line for each thing that happened."""
        lines = [] if self.read_as is None else [self.read_as]
        if self.dropped:
            lines.append(self._dropped())
        if self.repeating:
            lines.append(
                f"the responses of {self.repeating} rows repeat the prompt at their beginning, which was taken off"
            )
        if self.unpaired:
            lines.append(f"{self.unpaired} posts have no two summaries of different ratings, and were left out")
        if self.unused:
            lines.append(f"columns that are not used: {shortened(', '.join(self.unused), 400)}")
        return lines

    def merge(self, later: Remarks) -> None:
        """Add what was found in a later part of the same source."""
        self.rows += later.rows
        self.read_as = self.read_as or later.read_as
        self.dropped.update(later.dropped)
        for reason, bad in later.first.items():
            self.first.setdefault(reason, bad)
        self.repeating += later.repeating
        self.unpaired += later.unpaired
        self.leave(later.unused)

    def drop(self, bad: RowError) -> None:
        """Count a row that is left out."""
        reason = re.sub(r"\d+", "N", bad.reason)
        self.dropped[reason] += 1
        self.first.setdefault(reason, bad)

    def leave(self, columns: Iterable[str]) -> None:
        """Remember columns that are not read, as far as a message can name them."""
        for column in columns:
            if len(self.unused) < _MOST_COLUMNS:
                self.unused[column] = None

    def _dropped(self) -> str:
        named = [f"{count} like {self.first[reason]}" for reason, count in self.dropped.most_common(_MOST_REASONS)]
        others = len(self.dropped) - len(named)
        more = f"; and for {others} more reasons" if others else ""
        return f"{self.dropped.total()} bad rows were dropped: {'; '.join(named)}{more}"


def refuse_or_skip(bad: RowError, on_bad_row: Literal["stop", "skip"], remarks: Remarks) -> None:
    """Stop with the row's place and reason, or count it.

    Raises:
        UserError: `on_bad_row` is "stop".
    """
    if on_bad_row == "stop":
        raise UserError(f"{bad}. Mend the row, or drop such rows with --data.on_bad_row skip") from None
    remarks.drop(bad)

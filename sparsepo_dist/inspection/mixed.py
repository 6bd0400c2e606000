"""Which pairs of its sources a run has: all of them, or those that a mixture takes, without those that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.mixture import chosen_rows, off_the_end
from sparsepo_dist.data.reading.named import SourceSpec
from sparsepo_dist.data.tokens.limits import Limits
from sparsepo_dist.inspection.cutting import cut
from sparsepo_dist.inspection.measures import Measures, Whole, joined
from sparsepo_dist.inspection.source import Source


class Taken(NamedTuple):
    """Pairs of a source, by their places in it, ascending; of a row all or none."""

    source: Source
    pairs: Whole
    """What is looked at; of a source that is taken whole, those that the limits leave out too."""
    usable: Whole
    """What a run has."""

    @property
    def rows(self) -> Whole:
        """The rows that those are of, ascending."""
        return np.unique(self.source.measures.row[self.usable])

    def of_rows(self, rows: Whole) -> Taken:
        """Those of some of the rows; where that is all of them, what the limits leave out is looked at too."""
        found = self.usable[np.isin(self.source.measures.row[self.usable], rows)]
        return self._replace(usable=found, pairs=self.pairs if len(found) == len(self.usable) else found)


def taken(specs: Sequence[SourceSpec], sources: Sequence[Source], data: DataConfig) -> list[Taken]:
    """The pairs of each source that a run would take.

    Raises:
        UserError: as `chosen_rows`.
    """
    limits, drop = Limits.of(data), data.on_long == "drop"
    whole = [
        Taken(one, np.arange(len(one.pairs)), np.flatnonzero(cut(one.measures, limits).kept(drop=drop)))
        for one in sources
    ]
    if not all(len(one.usable) for one in whole):  # of a source that has none nothing can be drawn: a run would stop
        return whole
    chosen = chosen_rows([len(one.rows) for one in whole], specs, data.mixture_seed)
    return [one.of_rows(one.rows[list(rows)]) for one, rows in zip(whole, chosen, strict=True)]


def split_off(parts: Sequence[Taken], heldout: int) -> tuple[list[Taken], list[Taken]]:
    """What is trained on, and what is held out: `heldout` rows off the ends of the sources, as a run takes them."""
    kept: list[Taken] = []
    off: list[Taken] = []
    for part, count in zip(parts, off_the_end([len(part.rows) for part in parts], heldout), strict=True):
        row = part.source.measures.row
        first = part.rows[len(part.rows) - count] if count else len(part.source.pairs)
        for half, side in ((kept, np.less), (off, np.greater_equal)):
            pairs, usable = (found[side(row[found], first)] for found in (part.pairs, part.usable))
            half.append(Taken(part.source, pairs, usable))
    return kept, off


def measures_of(parts: Sequence[Taken]) -> Measures:
    """The numbers of the pairs that are looked at, source after source."""
    return joined([part.source.measures.of(part.pairs) for part in parts])

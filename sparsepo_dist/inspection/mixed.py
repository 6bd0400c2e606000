"""Which pairs of its sources a run has: all of them, or those that a mixture takes, without those that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparsepo_dist.data.config import DataConfig, SourceSpec
from sparsepo_dist.data.reading.mixture import chosen_rows, off_the_end
from sparsepo_dist.data.tokens.limits import Limits
from sparsepo_dist.inspection.cutting import cut
from sparsepo_dist.inspection.measures import Measures, Whole, joined
from sparsepo_dist.inspection.source import Source


class Taken(NamedTuple):
    """Pairs of a source, by their places in it, ascending."""

    source: Source
    pairs: Whole
    """What is looked at; of a source that is taken whole, those that the limits leave out too."""
    usable: Whole
    """What a run has."""


def taken(specs: Sequence[SourceSpec], sources: Sequence[Source], data: DataConfig) -> list[Taken]:
    """The pairs of each source that a run would take.

    Raises:
        UserError: as `chosen_rows`.
    """
    limits = Limits.of(data)
    usable = [np.flatnonzero(cut(one.measures, limits).kept(drop=data.on_long == "drop")) for one in sources]
    if not all(map(len, usable)):  # of a source that has none nothing can be drawn, and a run would stop
        return [Taken(one, np.arange(len(one.pairs)), found) for one, found in zip(sources, usable, strict=True)]
    chosen = chosen_rows([len(found) for found in usable], specs, data.mixture_seed)
    return [
        Taken(one, np.arange(len(one.pairs)) if len(rows) == len(found) else found[list(rows)], found[list(rows)])
        for one, found, rows in zip(sources, usable, chosen, strict=True)
    ]


def split_off(parts: Sequence[Taken], heldout: int) -> tuple[list[Taken], list[Taken]]:
    """What is trained on, and what is held out: `heldout` pairs off the ends of the sources, as a run takes them."""
    kept, off = [], []
    for part, count in zip(parts, off_the_end([len(part.usable) for part in parts], heldout), strict=True):
        end = len(part.usable) - count
        first = part.usable[end] if count else len(part.source.pairs)
        kept.append(Taken(part.source, part.pairs[part.pairs < first], part.usable[:end]))
        off.append(Taken(part.source, part.pairs[part.pairs >= first], part.usable[end:]))
    return kept, off


def measures_of(parts: Sequence[Taken]) -> Measures:
    """The numbers of the pairs that are looked at, source after source."""
    return joined([part.source.measures.of(part.pairs) for part in parts])

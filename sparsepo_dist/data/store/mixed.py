"""Pairs of one source or of several, as one sequence, and where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.mixture import chosen_rows, off_the_end
from sparsepo_dist.data.reading.named import SourceSpec
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.data.store.columns import Ints
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.data.store.pairs import NO_PAIRS, TokenizedPairs


@dataclass(frozen=True)
class Part:
    """What one source gives."""

    source: str
    rows: int
    """That were read."""
    pairs: TokenizedPairs
    """All that are usable."""
    taken: range | Ints
    """Of their rows, ascending."""


class Mixture(TokenizedPairs):
    """The rows that are taken of each source, source after source; what the sources give is not copied."""

    def __init__(self, parts: Sequence[Part]) -> None:
        taken = reduce(TokenizedPairs.joined, (part.pairs.taken(part.taken) for part in parts), NO_PAIRS)
        super().__init__(taken._runs, taken._order)
        self.parts = tuple(parts)

    def split(self, heldout: int) -> tuple[Mixture, Mixture]:
        """Without `heldout` rows off the ends of the sources, in proportion to what is taken of them; and those."""
        sizes = [len(part.taken) for part in self.parts]
        kept = [size - off for size, off in zip(sizes, off_the_end(sizes, heldout), strict=True)]
        both = list(zip(self.parts, kept, strict=True))
        return (
            Mixture([replace(part, taken=part.taken[:end]) for part, end in both]),
            Mixture([replace(part, taken=part.taken[end:]) for part, end in both]),
        )

    def origins(self) -> list[dict[str, Any]]:
        """Of each source: its name, the rows that were read, those that are usable and those that are taken."""
        return [
            {"source": part.source, "rows": part.rows, "pairs": part.pairs.rows, "taken": len(part.taken)}
            for part in self.parts
        ]

    def line(self) -> str:
        """`origins`, for a person."""
        return "; ".join("{taken} of {pairs} pairs ({rows} rows) of {source}".format(**one) for one in self.origins())


def load_mixture(
    specs: Sequence[SourceSpec],
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    *,
    scored: bool = False,
    needs_rejected: bool = True,
    progress: bool = False,
    bar: bool = False,
) -> Mixture:
    """The pairs of some sources; the rest is as in `load_tokenized`.

    Raises:
        UserError: as there, or a source has fewer pairs than are wanted of it.
    """
    loaded: list[tuple[TokenizedPairs, int]] = []
    for spec in specs:
        remarks = Remarks()
        pairs = load_tokenized(
            spec.source, tokenizer, config, scored=scored, needs_rejected=needs_rejected, progress=progress, bar=bar,
            remarks=remarks,
        )  # fmt: skip
        loaded.append((pairs, remarks.rows))
    chosen = chosen_rows([pairs.rows for pairs, _ in loaded], specs, config.mixture_seed)
    return Mixture(
        [
            Part(spec.source, rows, pairs, taken if isinstance(taken, range) else np.asarray(taken))
            for spec, (pairs, rows), taken in zip(specs, loaded, chosen, strict=True)
        ]
    )

"""Pairs of one source or of several, as one sequence, and where they came from."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import DataConfig, SourceSpec
from sparsepo_dist.data.reading.mixture import chosen_rows, off_the_end
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.data.tokens.tokenize import load_tokenized


@dataclass(frozen=True)
class Part:
    """What one source gives."""

    source: str
    rows: int
    """That were read."""
    pairs: Sequence[TokenizedPair]
    """All that are usable."""
    taken: Sequence[int]
    """Of them, ascending."""


class Mixture(Sequence[TokenizedPair]):
    """The pairs that are taken of each source, source after source; what the sources give is not copied."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._ends = list(itertools.accumulate(len(part.taken) for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> TokenizedPair: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedPair]: ...
    def __getitem__(self, index: int | slice) -> TokenizedPair | list[TokenizedPair]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        number = bisect_right(self._ends, place)
        part = self.parts[number]
        return part.pairs[part.taken[place - (self._ends[number] - len(part.taken))]]

    def split(self, heldout: int) -> tuple[Mixture, Mixture]:
        """Without `heldout` pairs off the ends of the sources, in proportion to what is taken of them; and those."""
        sizes = [len(part.taken) for part in self.parts]
        kept = [size - off for size, off in zip(sizes, off_the_end(sizes, heldout), strict=True)]
        both = list(zip(self.parts, kept, strict=True))
        return (
            Mixture([replace(part, taken=part.taken[:end]) for part, end in both]),
            Mixture([replace(part, taken=part.taken[end:]) for part, end in both]),
        )

    def origins(self) -> list[dict[str, Any]]:
        """Of each source: its name, the rows that were read, the pairs that are usable and those that are taken."""
        return [
            {"source": part.source, "rows": part.rows, "pairs": len(part.pairs), "taken": len(part.taken)}
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
    needs_rejected: bool = False,
    progress: bool = False,
) -> Mixture:
    """The pairs of some sources; the rest is as in `load_tokenized`.

    Raises:
        UserError: as there, or a source has fewer pairs than are wanted of it.
    """
    loaded: list[tuple[Sequence[TokenizedPair], int]] = []
    for spec in specs:
        remarks = Remarks()
        pairs = load_tokenized(
            spec.source, tokenizer, config, scored=scored, needs_rejected=needs_rejected, progress=progress,
            remarks=remarks,
        )  # fmt: skip
        loaded.append((pairs, remarks.rows))
    chosen = chosen_rows([len(pairs) for pairs, _ in loaded], specs, config.mixture_seed)
    parts = zip(specs, loaded, chosen, strict=True)
    return Mixture([Part(spec.source, rows, pairs, taken) for spec, (pairs, rows), taken in parts])

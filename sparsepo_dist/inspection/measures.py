"""A few numbers of each pair, from which everything is counted that is said of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.tokens.encode import first_trained
from sparsepo_dist.data.tokens.keys import ids_key, pair_key

Whole = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Index = Flags | Whole


@dataclass(frozen=True)
class Measures:
    """Numbers of P pairs, nothing of which is cut; each is [P]."""

    prompt: Whole
    """Tokens of the prompt."""
    chosen: Whole
    """Tokens of the chosen response."""
    rejected: Whole
    """Tokens of the rejected response; 0 where there is none."""
    shared: Whole
    """Tokens that both responses begin with alike."""
    late: Whole
    """Where the training of a response begins, of both the later: the number of its tokens that are only read first."""
    row: Whole
    """Which row a pair is of, counted over the good ones: a row of several responses makes several pairs."""
    prompt_key: Whole
    """Made of the prompt's ids alone, as the keys below of what they name: equal for equal ids."""
    chosen_key: Whole
    rejected_key: Whole
    pair_key: Whole
    gap: npt.NDArray[np.float64]
    """Chosen score minus rejected score; NaN where there are none."""

    def __len__(self) -> int:
        return len(self.prompt)

    def of(self, index: Index) -> Measures:
        """Those of some of the pairs."""
        return Measures(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @property
    def response(self) -> Whole:
        """[P]: tokens of the longer response."""
        return np.maximum(self.chosen, self.rejected)

    @property
    def two(self) -> Flags:
        """[P]: whether there is a rejected response."""
        return self.rejected > 0


def joined(parts: Sequence[Measures]) -> Measures:
    """The numbers of the pairs of several sources, whose rows are counted on."""
    found = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Measures)}
    rows = [int(part.row.max(initial=-1)) + 1 for part in parts]
    before = np.repeat(np.cumsum([0, *rows[:-1]]), list(map(len, parts)))
    return Measures(**{**found, "row": found["row"] + before})


def measure(pairs: Sequence[TokenizedPair]) -> Measures:
    """The numbers of pairs, in their order, each looked at once."""
    names = [field.name for field in fields(Measures)][:-1]
    whole = np.zeros((len(names), len(pairs)), np.int64)
    gap = np.full(len(pairs), np.nan)
    row, place = -1, None
    for index, pair in enumerate(pairs):
        if pair.place != place or not place:
            row, place = row + 1, pair.place
        chosen, rejected = pair.chosen_ids, pair.rejected_ids
        late = max(first_trained(pair.chosen_trained), first_trained(pair.rejected_trained))
        whole[:, index] = (
            len(pair.prompt_ids), len(chosen), len(rejected), _shared(chosen, rejected), late, row,
            ids_key(pair.prompt_ids), ids_key(chosen), ids_key(rejected), pair_key(pair),
        )  # fmt: skip
        if pair.scores is not None and rejected:
            gap[index] = pair.scores[0] - pair.scores[1]
    return Measures(**dict(zip(names, whole, strict=True)), gap=gap)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))

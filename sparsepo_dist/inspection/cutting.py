"""What a run's lengths take off the pairs of a data set, or others would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsepo_dist.data.tokens.limits import Limits
from sparsepo_dist.inspection.measures import Flags, Measures, Whole

_MOST_ROWS = 5


@dataclass(frozen=True)
class Cutting:
    """Pairs within limits; each array is [P]."""

    limits: Limits
    prompt: Whole
    """Tokens that are left of the prompt."""
    chosen: Whole
    rejected: Whole
    long: Flags
    """Its row has a pair of which something is cut."""
    full: Flags
    """Its prompt leaves no room for a response: a bad row."""
    alike: Flags
    """Its row has a pair whose responses are cut to the same tokens: a bad row."""
    untrained: Flags
    """Its row has a response of which nothing is left that is trained on: a bad row."""

    @property
    def bad(self) -> Flags:
        """[P]: whether its row is a bad one where long rows are cut."""
        return self.full | self.alike | self.untrained

    def kept(self, *, drop: bool) -> Flags:
        """[P]: whether a run trains on it, where long rows are left out (`drop`) or cut."""
        return ~(self.long if drop else self.bad)


def cut(measures: Measures, limits: Limits) -> Cutting:
    """The pairs, cut."""
    room = np.maximum(limits.room(measures.prompt), 0)
    chosen, rejected = np.minimum(measures.chosen, room), np.minimum(measures.rejected, room)
    full = room == 0
    alike = measures.two & limits.alike(measures.prompt, measures.chosen, measures.rejected, measures.shared) & ~full
    untrained = limits.untrained(measures.prompt, measures.late) & ~full
    long = ~limits.fit(measures.prompt, measures.response)
    return Cutting(
        limits, limits.kept(measures.prompt), chosen, rejected,
        *(_whole_rows(flags, measures.row) for flags in (long, full, alike, untrained)),
    )  # fmt: skip


def cuts_of(measures: Measures, limits: Limits) -> dict[str, Any]:
    """How many prompts and responses are cut, and by how many tokens."""
    found = cut(measures, limits)
    responses = np.concatenate([measures.chosen, measures.rejected[measures.two]])
    left = np.concatenate([found.chosen, found.rejected[measures.two]])
    return {
        "max_prompt_length": limits.prompt,
        "max_length": limits.whole,
        "pairs": int(found.long.sum()),
        "prompts": _lost(measures.prompt - found.prompt),
        "responses": _lost(responses - left),
        "without_room": int(found.full.sum()),
        "cut_to_the_same": int(found.alike.sum()),
        "untrained": int(found.untrained.sum()),
    }


def ladder(measures: Measures, limits: Limits) -> list[Limits]:
    """The present limits; each twice the last, while those cut anything; and the least that cut nothing."""
    least = Limits(int(measures.prompt.max()), int((measures.prompt + measures.response).max()))
    found, next_one = [limits], Limits(2 * limits.prompt, 2 * limits.whole)
    while (next_one.prompt < least.prompt or next_one.whole < least.whole) and len(found) < _MOST_ROWS:
        found.append(next_one)
        next_one = Limits(2 * next_one.prompt, 2 * next_one.whole)
    return [*found, least]


def _lost(tokens: Whole) -> dict[str, float]:
    cut = tokens[tokens > 0]
    return {
        "cut": len(cut),
        "of": len(tokens),
        "mean_tokens": float(cut.mean()) if len(cut) else 0.0,
        "most_tokens": int(cut.max(initial=0)),
    }


def _whole_rows(flags: Flags, row: Whole) -> Flags:
    """With one pair of a row, all: a row is left out or refused as one."""
    of_row = np.zeros(int(row.max(initial=-1)) + 1, bool)
    of_row[row[flags]] = True
    return of_row[row]

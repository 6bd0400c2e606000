"""How sure a share of few pairs is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NORMAL = 1.959964  # two-sided 95 %
_ROUNDING = 1e-5


def wilson(count: float, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` among `of` pairs (Wilson, 1927)."""
    share, more = count / of, _NORMAL**2 / of
    middle = (share + more / 2) / (1 + more)
    half = _NORMAL / (1 + more) * math.sqrt(share * (1 - share) / of + more / (4 * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def accuracy_in_words(row: Mapping[str, Any]) -> str | None:
    """An evaluation's reward accuracy, with the pairs that it is of, and ties as ties; None where it has none.

    Args:
        row: of metrics.jsonl, of split `eval`. Where it lacks `pairs`, as those of older versions do, nothing can be
            said of the interval.
    """
    accuracy, ties, pairs = share(row.get("rewards/accuracies")), share(row.get("rewards/ties")), row.get("pairs")
    if accuracy is None:
        return None
    if not isinstance(pairs, int) or isinstance(pairs, bool) or pairs < 1:
        return f"{accuracy:.4g}"
    low, high = wilson(accuracy * pairs, pairs)
    text = f"{round(accuracy * pairs)} of {pairs} pairs ({accuracy:.0%}, 95 % interval {low:.0%} to {high:.0%})"
    tied = round((ties or 0.0) * pairs)
    return f"{text}, {tied} tied" if tied else text


def share(value: Any) -> float | None:
    """A number from 0 to 1; None where it is none. Weights of pairs add up to 1 but for rounding, and so do shares."""
    if not isinstance(value, int | float) or not -_ROUNDING <= value <= 1 + _ROUNDING:
        return None
    return min(1.0, max(0.0, value))

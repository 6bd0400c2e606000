"""How sure a share of few pairs is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

_NORMAL = 1.959964  # two-sided 95 %


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
    accuracy, ties, pairs = (row.get(name) for name in ("rewards/accuracies", "rewards/ties", "pairs"))
    if not _is_share(accuracy):
        return None
    if not isinstance(pairs, int) or isinstance(pairs, bool) or pairs < 1:
        return f"{accuracy:.4g}"
    low, high = wilson(accuracy * pairs, pairs)
    text = f"{round(accuracy * pairs)} of {pairs} pairs ({accuracy:.0%}, 95 % interval {low:.0%} to {high:.0%})"
    tied = round(ties * pairs) if _is_share(ties) else 0
    return f"{text}, {tied} tied" if tied else text


def _is_share(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value <= 1

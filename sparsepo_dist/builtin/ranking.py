"""Pairs of scored responses to one prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class Scored(NamedTuple):
    """A response and what it is worth."""

    prompt: str
    response: str
    score: float


def best_against_worst(samples: Iterable[Scored], pairs_per_prompt: int) -> Iterator[dict[str, Any]]:
    """Preference rows of samples that lie together by prompt: the best against the worst, the second-best against the
    second-worst, and so on; blank responses are left out. Scores of a pair may be equal.

    Args:
        pairs_per_prompt: at most; a prompt of n responses has n // 2.
    """
    by_prompt: dict[str, list[tuple[float, str]]] = {}
    for prompt, response, score in samples:
        if response.strip():
            by_prompt.setdefault(prompt, []).append((score, response))
    for prompt, scored in by_prompt.items():
        scored.sort(key=lambda item: item[0])
        for place in range(min(pairs_per_prompt, len(scored) // 2)):
            (low, rejected), (high, chosen) = scored[place], scored[-1 - place]
            yield {
                "prompt": prompt, "chosen": chosen, "rejected": rejected, "chosen_score": high, "rejected_score": low,
            }  # fmt: skip

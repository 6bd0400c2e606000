"""Deal a global batch out to ranks and micro-batches, by tokens, so that ranks finish together."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import Layout
from sparsepo_dist.data.tokens.limits import Lengths


class MicroBatchPlan(NamedTuple):
    """Which pairs one rank computes at once."""

    indices: list[int]
    """Into the data set."""
    filler: bool
    """True where there were too few pairs for this rank: the pair takes part with weight 0."""


def pair_tokens(pair: TokenizedPair, layout: Layout) -> int:
    """Packed tokens of a pair."""
    return int(packed_tokens(len(pair.prompt_ids), len(pair.chosen_ids), len(pair.rejected_ids), layout))


def packed_tokens(prompt: Lengths, chosen: Lengths, rejected: Lengths, layout: Layout) -> Lengths:
    """Packed tokens of a pair, or of many, by its lengths; 0 where there is no such response.

    A response's last token is never an input.
    """
    responses = (chosen > 0) * 1 + (rejected > 0)
    prompts = 1 if layout == "prefix_shared" else responses
    return prompts * prompt + chosen + rejected - responses


def plan_step(
    indices: Sequence[int], tokens: Mapping[int, int], ranks: int, budget: int, most_pairs: int | None = None
) -> list[list[MicroBatchPlan]]:
    """Per rank, its micro-batches: equally many on each rank, none above `budget` tokens unless one pair is.

    Args:
        indices: the global batch.
        tokens: pair to tokens.
        ranks: data-parallel ranks.
        budget: tokens of one micro-batch.
        most_pairs: pairs of one micro-batch, where the ds_config limits them.
    """
    total = sum(tokens[i] for i in indices)
    # No more than pairs: a budget below a pair's length makes no micro-batch smaller, only fillers.
    rounds = max(1, min(-(-total // (budget * ranks)), -(-len(indices) // ranks)))
    bins = _deal(indices, tokens, rounds * ranks)
    while not _fits(bins, tokens, budget, most_pairs):
        rounds += 1
        bins = _deal(indices, tokens, rounds * ranks)
    cheapest = min(indices, key=lambda i: (tokens[i], i))
    bins.sort(key=lambda members: -sum(tokens[i] for i in members))
    plans: list[list[MicroBatchPlan]] = [[] for _ in range(ranks)]
    for start in range(0, len(bins), ranks):
        # Every other round runs backwards, so that no rank always gets the largest bin.
        slots = range(ranks) if (start // ranks) % 2 == 0 else range(ranks - 1, -1, -1)
        for rank, members in zip(slots, bins[start : start + ranks], strict=True):
            plans[rank].append(MicroBatchPlan(members or [cheapest], filler=not members))
    return plans


def imbalance(plans: Sequence[Sequence[MicroBatchPlan]], tokens: Mapping[int, int]) -> float:
    """Tokens that the fullest rank computes, over the mean of all ranks: 1 where none waits for another.

    Args:
        plans: of `plan_step`; fillers count, since they are computed.
        tokens: pair to tokens.
    """
    loads = [sum(tokens[i] for batch in plan for i in batch.indices) for plan in plans]
    return max(loads) * len(loads) / sum(loads)


def _deal(indices: Sequence[int], tokens: Mapping[int, int], count: int) -> list[list[int]]:
    """Longest first, each into the lightest bin."""
    bins: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, 0, slot) for slot in range(count)]
    for index in sorted(indices, key=lambda i: (-tokens[i], i)):
        load, members, slot = heapq.heappop(heap)
        bins[slot].append(index)
        heapq.heappush(heap, (load + tokens[index], members + 1, slot))
    return bins


def _fits(bins: list[list[int]], tokens: Mapping[int, int], budget: int, most_pairs: int | None) -> bool:
    return all(
        len(members) <= 1
        or (sum(tokens[i] for i in members) <= budget and (most_pairs is None or len(members) <= most_pairs))
        for members in bins
    )

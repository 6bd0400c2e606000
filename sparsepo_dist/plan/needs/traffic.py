"""Bytes that a rank sends in an optimizer step, by collective.

Ring algorithms: of B bytes, each of n ranks sends (n - 1) / n B in an all-gather or a reduce-scatter, and twice that in
an all-reduce. It receives as many. In an all-to-all it sends (n - 1) / n of its B bytes, each part to its own rank.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsepo_dist.plan.asked.request import Setting
from sparsepo_dist.plan.model.census import Census, Weight
from sparsepo_dist.plan.model.gathering import persistent
from sparsepo_dist.plan.needs.exchanges import Traffic, exchanges
from sparsepo_dist.plan.needs.pieces import frozen_gathering, policy_gathering, scored_at_once
from sparsepo_dist.plan.needs.states import groups

STAGE_0_BUCKET = 500_000_000
"""Numbers that DeepSpeed reduces at once without ZeRO."""


def traffic(setting: Setting, census: Census, micro_batches: int) -> list[Traffic]:
    """Every collective of a step whose size grows with the model; a few numbers for metrics are left out."""
    if setting.ranks == 1:
        return []
    passes = 2 if setting.needs.global_means and micro_batches > 1 else 1
    found = _policy(setting, census, micro_batches, passes)
    scorings = -(-micro_batches // scored_at_once(setting, census, micro_batches))
    for name, gathered in frozen_gathering(setting, census).items():
        weights = Traffic(
            "all-gather", f"{name}'s weights", gathered.fetched * scorings, gathered.calls * scorings, setting.ranks
        )
        found.append(weights)
    share = (setting.ranks - 1) / setting.ranks
    found = [item._replace(bytes=round(item.bytes * share)) for item in found]
    return found + exchanges(setting, micro_batches, passes)


def _policy(setting: Setting, census: Census, micro_batches: int, passes: int) -> list[Traffic]:
    size, zero = setting.element_size, setting.zero
    weights = [weight for weight in census.policy_weights if weight.trained]
    trained = sum(weight.numel for weight in weights) * size
    if setting.stage == 3:
        small = persistent(census.policy_weights, zero)
        gathered = policy_gathering(setting, census)
        # A first pass over the global batch is forward alone: everything once.
        more = sum(weight.bytes for weight in census.policy_weights), gathered.calls // 2
        fetched, calls = (gathered.fetched + more[0], gathered.calls + more[1]) if passes > 1 else gathered[1:]
        after_step = sum(weight.bytes for weight in small)
        buckets = micro_batches * _buckets(weights, int(zero.reduce_bucket_size))
        return [
            Traffic(
                "all-gather",
                "policy's weights",
                fetched * micro_batches + after_step,
                calls * micro_batches + len(small),
            ),
            Traffic("reduce-scatter", "gradients", trained * micro_batches, buckets),
        ]
    reductions = micro_batches if setting.stage == 2 else 1
    bucket = int(zero.reduce_bucket_size) if setting.stage else STAGE_0_BUCKET
    calls = reductions * _buckets(weights, bucket)
    found = [Traffic("all-reduce", "gradients", 2 * trained * reductions, calls)]
    if setting.stage and zero.reduce_scatter and not zero.use_multi_rank_bucket_allreduce:
        # Each bucket is cut where a rank's part ends, and each piece goes to its rank.
        found = [
            Traffic(
                "reduce", "gradients", trained * reductions, calls + reductions * (setting.ranks - 1), setting.ranks
            )
        ]
    if setting.stage:
        found.append(Traffic("all-gather", "updated weights", trained, len(groups(weights))))
    return found


def _buckets(weights: Sequence[Weight], most: int) -> int:
    """Collectives that gradients take which are put together, in the order of backward, up to so many numbers."""
    count = filled = 0
    for weight in reversed(weights):
        if not count or filled + weight.numel > most:
            count, filled = count + 1, 0
        filled += weight.numel
    return count

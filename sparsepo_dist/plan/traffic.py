"""Bytes that a rank sends in an optimizer step, by collective.

Ring algorithms: of B bytes, each of n ranks sends (n - 1) / n B in an all-gather or a reduce-scatter, and twice that in
an all-reduce. It receives as many.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from sparsepo_dist.plan.census import Census
from sparsepo_dist.plan.gathering import persistent
from sparsepo_dist.plan.pieces import frozen_gathering, policy_gathering, scored_at_once
from sparsepo_dist.plan.request import Setting

Collective = Literal["all-gather", "reduce-scatter", "all-reduce", "reduce"]


class Traffic(NamedTuple):
    """Bytes one rank sends in a step for one purpose."""

    collective: Collective
    purpose: str
    bytes: int


def traffic(setting: Setting, census: Census, micro_batches: int) -> list[Traffic]:
    """Every collective of a step whose size grows with the model; a few numbers for metrics are left out."""
    if setting.ranks == 1:
        return []
    passes = 2 if setting.needs.global_means and micro_batches > 1 else 1
    found = _policy(setting, census, micro_batches, passes)
    scorings = -(-micro_batches // scored_at_once(setting, census, micro_batches))
    for name, gathered in frozen_gathering(setting, census).items():
        found.append(Traffic("all-gather", f"{name}'s weights", gathered.fetched * scorings))
    share = (setting.ranks - 1) / setting.ranks
    return [item._replace(bytes=round(item.bytes * share)) for item in found]


def _policy(setting: Setting, census: Census, micro_batches: int, passes: int) -> list[Traffic]:
    size, zero = setting.element_size, setting.zero
    trained = sum(weight.numel for weight in census.policy_weights if weight.trained) * size
    if setting.stage == 3:
        small = sum(weight.bytes for weight in persistent(census.policy_weights, zero))
        extra = sum(weight.bytes for weight in census.policy_weights) if passes > 1 else 0
        gathered = (policy_gathering(setting, census).fetched + extra) * micro_batches + small
        return [
            Traffic("all-gather", "policy's weights", gathered),
            Traffic("reduce-scatter", "gradients", trained * micro_batches),
        ]
    reductions = micro_batches if setting.stage == 2 else 1
    found = [Traffic("all-reduce", "gradients", 2 * trained * reductions)]
    if setting.stage and zero.reduce_scatter and not zero.use_multi_rank_bucket_allreduce:
        found = [Traffic("reduce", "gradients", trained * reductions)]
    if setting.stage:
        found.append(Traffic("all-gather", "updated weights", trained))
    return found

"""What ZeRO-3 has gathered at any time, and how much it gathers: its own rules, followed module by module.

DeepSpeed records the order of modules in one pass and then keeps a parameter after use if it is used again within
`stage3_max_reuse_distance` parameters (10^9 by default): models below half of that stay whole from forward to backward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from sparsepo_dist.plan.model.census import Census, Unit, Weight, unique

Moment = Literal["scoring", "forward", "head", "backward", "end"]


class Use(NamedTuple):
    """A module's turn in a micro-batch."""

    unit: Unit
    moment: Moment
    leaving: bool = False
    """Whether it is only left here: it was entered before those in it."""


class Gathered(NamedTuple):
    """Of one micro-batch."""

    most: dict[Moment, int]
    """Most bytes of whole parameters at once, besides persistent ones."""
    fetched: int
    """Bytes of all parameters gathered, some of them more than once."""
    calls: int
    """Collectives that this takes: parameters that are gathered together take one."""

    def at(self, moment: Moment) -> int:
        """Bytes at a moment; 0 if it does not come."""
        return self.most.get(moment, 0)


def persistent(weights: Iterable[Weight], zero: DeepSpeedZeroConfig) -> list[Weight]:
    """Parameters so small that ZeRO-3 keeps them whole on every rank."""
    kept, total = [], 0
    for weight in weights:
        if (
            weight.stored + total <= zero.model_persistence_threshold
            and weight.stored <= zero.param_persistence_threshold
        ):
            kept.append(weight)
            total += weight.stored
    return kept


def embedding(units: Iterable[Unit]) -> Weight:
    """The input embedding: the first matrix of a body."""
    return next(weight for unit in units for weight in unit.weights if weight.matrix)


def policy_order(census: Census, *, own_reference: bool, own_head: bool, checkpointing: bool) -> list[Use]:
    """The policy's engine in one micro-batch: forward passes, heads, and all of it backwards.

    Args:
        own_reference: whether the reference is scored in here too.
        own_head: whether the head is used for that (no divergence).
        checkpointing: whether a block runs forward again in backward.
    """
    body, heads = census.policy, census.heads
    masks = [Use(census.masks, "forward")] if census.masks else []
    around = Unit((embedding(body),))
    order = [Use(around, "scoring" if own_reference else "forward")]
    if own_reference:
        without = [unit for unit in body if all(weight.role != "adapter" for weight in unit.weights)]
        order += [Use(unit, "scoring") for unit in (*without, *([heads] if own_head else []))]
    order += masks + [Use(unit, "forward") for unit in body]
    order += [Use(heads, "head"), Use(around, "head", leaving=True), Use(around, "head"), Use(heads, "head")]
    # What lies below everything that is trained has no backward pass: an adapter's embedding, say.
    lowest = next((place for place, unit in enumerate(body) if any(w.trained for w in unit.weights)), 0)
    frozen = {id(unit) for unit in body[:lowest] if unit.weights}
    backwards = _backwards([unit for unit in body if id(unit) not in frozen], checkpointing=checkpointing)
    first_block = max((place for place, unit in enumerate(backwards) if unit.block), default=len(backwards))
    order += [Use(unit, "backward" if place < first_block else "end") for place, unit in enumerate(backwards)]
    return order + [use._replace(moment="end") for use in masks]


def scoring_order(units: Sequence[Unit]) -> list[Use]:
    """A frozen model's engine: one forward pass."""
    return [Use(unit, "scoring") for unit in (Unit((embedding(units),)), *units)]


def gather(order: Sequence[Use], zero: DeepSpeedZeroConfig) -> Gathered:
    """Follow DeepSpeed's coordinator through a recorded order: fetch, prefetch, release.

    The embedding stays until the outermost module is left: `hidden_at` looks at its dtype, which DeepSpeed takes for a
    use by that module.
    """
    kept = set(persistent(unique(use.unit for use in order), zero))
    held = embedding(use.unit for use in order)
    turns = [[w for w in use.unit.weights if w not in kept] for use in order]
    next_use = _next_uses(order, turns)
    passed = _running_totals(order)
    trace = [(weight, turn) for turn, use in enumerate(order) if not use.leaving for weight in turns[turn]]
    live: dict[Weight, None] = {}
    looked_up_to: dict[Weight, int] = {}
    most: dict[Moment, int] = {}
    fetched = calls = place = size = 0

    def fetch(wanted: Iterable[Weight]) -> int:
        """Gather what is not there; bytes of the flat buffer that several parameters are gathered in."""
        nonlocal fetched, calls, size
        new = [weight for weight in dict.fromkeys(wanted) if weight not in live]
        live.update(dict.fromkeys(new))
        total = sum(weight.bytes for weight in new)
        fetched, calls, size = fetched + total, calls + bool(new), size + total
        return total if len(new) > 1 else 0

    for turn, weights in enumerate(turns):
        leaving = order[turn].leaving
        flat = 0 if leaving else fetch(weights)
        while place < len(trace) and trace[place][1] <= turn:
            place += 1
        ahead: list[Weight] = []
        room = min(zero.prefetch_bucket_size, zero.max_live_parameters - _stored(live))
        while place < len(trace) and _stored(ahead) < room:
            weight, when = trace[place]
            place += 1
            looked_up_to[weight] = when
            if weight not in live:
                ahead.append(weight)
        flat = max(flat, fetch(ahead))
        moment = order[turn].moment
        most[moment] = max(most.get(moment, 0), size + flat)
        for weight in weights:
            again = next_use[turn].get(weight)
            reused = again is not None and passed[again] - passed[turn + 1] < zero.max_reuse_distance
            if not reused and (leaving or weight != held) and looked_up_to.get(weight, -1) <= turn and weight in live:
                del live[weight]
                size -= weight.bytes
    return Gathered(most, fetched, calls)


def _backwards(units: Sequence[Unit], *, checkpointing: bool) -> list[Unit]:
    """Modules in the order of the backward pass: siblings from the last to the first, each before those in it."""
    trees: list[list[Unit]] = []
    for unit in units:
        if not trees or unit.depth <= trees[-1][0].depth:
            trees.append([])
        trees[-1].append(unit)
    result: list[Unit] = []
    for root, *inner in reversed(trees):
        result.append(root)
        if checkpointing and root.block:
            result += [root, *inner]
        result += _backwards(inner, checkpointing=checkpointing)
    return result


def _next_uses(order: Sequence[Use], turns: Sequence[Sequence[Weight]]) -> list[dict[Weight, int]]:
    """For each turn, when its parameters come next."""
    upcoming: dict[Weight, int] = {}
    found: list[dict[Weight, int]] = []
    for turn in range(len(turns) - 1, -1, -1):
        found.append({weight: upcoming[weight] for weight in turns[turn] if weight in upcoming})
        if not order[turn].leaving:
            upcoming.update(dict.fromkeys(turns[turn], turn))
    return found[::-1]


def _running_totals(order: Sequence[Use]) -> list[int]:
    """Elements used before each turn, persistent ones too; one entry more than turns."""
    totals = [0]
    for use in order:
        totals.append(totals[-1] + (0 if use.leaving else sum(weight.stored for weight in use.unit.weights)))
    return totals


def _stored(weights: Iterable[Weight]) -> int:
    return sum(weight.stored for weight in weights)

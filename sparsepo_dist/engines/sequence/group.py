"""Which ranks share the packed tokens of their micro-batches: neighbours, n of them."""

from __future__ import annotations

from functools import cache

import torch.distributed as dist

from sparsepo_dist.contracts import TokenShare
from sparsepo_dist.engines.deepspeed.ranks import collective_timeout, rank, world_size
from sparsepo_dist.errors import UserError


def check_ranks(ranks: int, world: int) -> None:
    """Raise UserError where `world` ranks cannot be groups of `ranks`, which `training.sequence_parallel` asks for."""
    if world % ranks:
        raise UserError(
            f"training.sequence_parallel: {ranks} does not divide the run's {world} rank{'s' if world > 1 else ''}; "
            f"launch a multiple of {ranks}, or say {_divisors(world)}"
        )


def check_heads(ranks: int, heads: int, field: str) -> None:
    """Raise UserError where the `heads` of queries of a model, named by its field, cannot be shared by `ranks`."""
    if heads % ranks:
        raise UserError(
            f"training.sequence_parallel: {ranks} does not divide the {heads} attention heads of {field}, which the "
            f"ranks of a group share; say {_divisors(heads)}"
        )


@cache
def token_share(ranks: int, *, hang_minutes: float) -> TokenShare | None:
    """This rank's place in its group; None for groups of one. Every rank must call this, once they have joined.

    Raises:
        UserError: the run's ranks are no whole number of groups.
    """
    check_ranks(ranks, world_size())
    if ranks == 1:
        return None
    own, group = rank() // ranks, None
    timeout = collective_timeout(hang_minutes)
    for number in range(world_size() // ranks):
        members = list(range(number * ranks, (number + 1) * ranks))
        made = dist.new_group(members, timeout=timeout)
        group = made if number == own else group
    return TokenShare(ranks, rank() % ranks, group)


def _divisors(number: int) -> str:
    return " or ".join(str(n) for n in range(1, number + 1) if number % n == 0)

"""How many pairs of which source make a mixture, and which: a function of counts and a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch

from sparsepo_dist.data.reading.named import SourceSpec
from sparsepo_dist.errors import UserError


def chosen_rows(counts: Sequence[int], specs: Sequence[SourceSpec], seed: int) -> list[Sequence[int]]:
    """Which rows of each source are taken, ascending; none twice.

    Args:
        counts: usable rows of each source.
        specs: how much of each is wanted.
        seed: which are drawn where not all are; those of a source depend on its place in the list besides.

    Raises:
        UserError: a source has fewer rows than are wanted, or its share is less than one row.
    """
    sizes = taken(counts, specs)
    chosen: list[Sequence[int]] = []
    for place, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        if size == count:
            chosen.append(range(count))
            continue
        generator = torch.Generator().manual_seed(seed * 1_000_003 + place)
        chosen.append(sorted(torch.randperm(count, generator=generator)[:size].tolist()))
    return chosen


def taken(counts: Sequence[int], specs: Sequence[SourceSpec]) -> list[int]:
    """How many rows of each source are taken.

    Where weights are given they are shares of the mixture, which is as large as it can be; what they leave of 1 goes to
    the sources without one, in proportion to their rows. Where all have one, their sum is made 1.

    Raises:
        UserError: as in `chosen_rows`.
    """
    if all(spec.weight is None for spec in specs):
        sizes = [count if spec.pairs is None else spec.pairs for count, spec in zip(counts, specs, strict=True)]
        for spec, count, size in zip(specs, counts, sizes, strict=True):
            if size > count:
                raise UserError(f"{spec.source}: {size} pairs of it are wanted (pairs), and {count} are usable")
        return sizes
    shares = _shares(counts, specs)
    whole = min(count / share for count, share in zip(counts, shares, strict=True))
    sizes = [math.floor(share * whole) for share in shares]
    for spec, count, size in zip(specs, counts, sizes, strict=True):
        if size == 0:
            raise UserError(f"{spec.source}: its weight asks for less than one of its {count} pairs; give it more")
    return sizes


def off_the_end(sizes: Sequence[int], wanted: int) -> list[int]:
    """How many rows are taken off the end of each source, so that they are `wanted`, in proportion to `sizes`."""
    whole = sum(sizes)
    exact = [Fraction(size * wanted, whole) for size in sizes]
    found = [math.floor(share) for share in exact]
    for place in sorted(range(len(sizes)), key=lambda place: found[place] - exact[place])[: wanted - sum(found)]:
        found[place] += 1
    return found


def _shares(counts: Sequence[int], specs: Sequence[SourceSpec]) -> list[Fraction]:
    weights = [None if spec.weight is None else Fraction(str(spec.weight)) for spec in specs]
    given = sum(weight for weight in weights if weight is not None)
    others = sum(count for count, weight in zip(counts, weights, strict=True) if weight is None)
    if not others:
        return [weight / given for weight in weights if weight is not None]
    return [
        (1 - given) * Fraction(count, others) if weight is None else weight
        for count, weight in zip(counts, weights, strict=True)
    ]

"""Sources as they are written: a path or id, `:CONFIGURATION` and `:SPLIT` behind it, a slice `[from:to]` at the end;
or a list of such, of which each may say how much of it is taken."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, NamedTuple

from sparsepo_dist.data.reading.row import Rows
from sparsepo_dist.errors import UserError, did_you_mean, shortened
from sparsepo_dist.files import at_home

_SLICE = re.compile(r"\[(-?\d[\d_]*%?)?:(-?\d[\d_]*%?)?\]$")
_COLON = re.compile(r":(?![^\[]*\])")  # none within brackets
_AS_A_LIST = """Write '[A.jsonl, {source: B.csv, weight: 0.3}]', and in quotes what holds brackets or commas itself: \
'["A.jsonl[:400]", B.csv]'"""

Sources = str | list[Any]
"""One source, or a list of sources and of SourceSpec's fields."""


@dataclass(frozen=True)
class SourceSpec:
    """A source of pairs, and how much of it is taken: all of it where nothing is said."""

    source: str
    """As `data.train` has it."""
    weight: float | None = None
    """Its share of the pairs of the mixture."""
    pairs: int | None = None
    """How many of its pairs, drawn by `data.mixture_seed`."""


def source_specs(name: str, sources: Sources) -> tuple[SourceSpec, ...]:
    """What `data.train` or `data.heldout` (`name`) names.

    Raises:
        UserError: an entry is none, or entries do not go together.
    """
    if isinstance(sources, str):
        if sources.startswith(("[", "{")) and sources.endswith(("]", "}")) and ("," in sources or "source:" in sources):
            raise UserError(f"{name}: {shortened(sources)} is no list in YAML. {_AS_A_LIST}")
        return (SourceSpec(sources),)
    specs = tuple(_source_spec(f"{name}, entry {number}", entry) for number, entry in enumerate(sources, start=1))
    if not specs:
        raise UserError(f"{name}: the list is empty. {_AS_A_LIST}")
    paths: dict[str, str] = {}
    for one in (spec.source for spec in specs):
        path = os.path.realpath(at_home(one))  # of a hub's id, a slice or a pattern no less one text for one source
        if path in paths:
            also = "" if paths[path] == one else f", first as {shortened(paths[path])}"
            raise UserError(f"{name}: {shortened(one)} stands there twice{also}, and no source is repeated; keep one")
        paths[path] = one
    if any(spec.pairs is not None for spec in specs) and any(spec.weight is not None for spec in specs):
        raise UserError(f"{name}: some entries have pairs, some a weight; give numbers of pairs to all, or shares")
    if any(spec.weight is None for spec in specs) and sum(spec.weight or 0.0 for spec in specs) >= 1:
        raise UserError(f"{name}: the weights leave nothing to entries without one; they must be less than 1 together")
    return specs


def _source_spec(place: str, entry: Any) -> SourceSpec:
    if isinstance(entry, str):
        entry = {"source": entry}
    known = [one.name for one in fields(SourceSpec)]
    if not isinstance(entry, Mapping):
        raise UserError(f"{place}: a source, or an object with {', '.join(known)}, is wanted, found {_found(entry)}")
    for name in entry:
        if name not in known:
            there = did_you_mean(str(name), known) or f"; there are {', '.join(known)}"
            raise UserError(f"{place}: there is no field {shortened(str(name))}{there}")
    source, weight, pairs = (entry.get(name) for name in known)
    if not isinstance(source, str) or not source.strip() or "\0" in source:
        raise UserError(f"{place}: source must be the text of a source, found {_found(source)}")
    if pairs is not None and (isinstance(pairs, bool) or not isinstance(pairs, int) or pairs < 1):
        raise UserError(f"{place}: pairs must be a whole number of at least 1, found {_found(pairs)}")
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if weight is not None and not (number and 0 < weight < math.inf):
        raise UserError(f"{place}: weight must be a number greater than 0, found {_found(weight)}")
    return SourceSpec(source, weight, pairs)


def _found(value: Any) -> str:
    return shortened(repr(value))


class Named(NamedTuple):
    """One reading of a source's text."""

    path: str
    parts: tuple[str, ...] = ()
    """Configuration and split, or one of them."""
    cut: str = ""
    """`[from:to]` as `datasets` has it: rows or percent, counted from the end where they are negative."""


def readings(source: str) -> list[Named]:
    """What a text may mean, in the order in which paths that exist win: as a whole, with a slice, with parts."""
    found = [Named(source)]
    match = _SLICE.search(source)
    rest, cut = (source, "") if match is None else (source[: match.start()], match[0])
    if cut:
        found.append(Named(rest, (), cut))
    path, *parts = _COLON.split(rest)
    if parts:
        found.append(Named(path, tuple(parts), cut))
    return found


def cut_rows(read: Callable[[], Rows], cut: str, source: str) -> Rows:
    """The rows of a slice; where it counts in percent or from the end, they are read twice.

    Args:
        read: all of them, anew with each call.
        cut: of a Named.
        source: for messages.

    Raises:
        UserError: the slice is none.
    """
    if not cut:
        return read()
    start, stop = _bounds(cut, read, source)
    return islice(read(), start, stop)


def _bounds(cut: str, read: Callable[[], Rows], source: str) -> tuple[int, int | None]:
    match = _SLICE.search(cut)
    assert match is not None
    try:
        if "-" not in cut and "%" not in cut:
            return int(match[1] or 0), int(match[2]) if match[2] else None
        import datasets

        (whole,) = datasets.ReadInstruction.from_spec(f"rows{cut}").to_absolute({"rows": sum(1 for _ in read())})
    except (ValueError, AssertionError) as error:
        raise UserError(f"{source}: {cut} is no slice ({error}); write it as [:4000], [10%:20%] or [-500:]") from None
    return whole.from_, whole.to

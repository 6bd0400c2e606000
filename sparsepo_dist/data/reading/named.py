"""A source as it is written: a path or id, `:CONFIGURATION` and `:SPLIT` behind it, a slice `[from:to]` at the end."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from sparsepo_dist.data.reading.row import Rows
from sparsepo_dist.errors import UserError

_SLICE = re.compile(r"\[(-?\d[\d_]*%?)?:(-?\d[\d_]*%?)?\]$")
_COLON = re.compile(r":(?![^\[]*\])")  # none within brackets


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

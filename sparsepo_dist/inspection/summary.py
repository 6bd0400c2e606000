"""All that is counted of a run's data, as one JSON value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsepo_dist.data.batching.balance import packed_tokens
from sparsepo_dist.data.config import DataConfig, Layout
from sparsepo_dist.data.tokens.limits import Limits
from sparsepo_dist.inspection.cutting import cut, cuts_of, ladder
from sparsepo_dist.inspection.findings import leakage, lengths, repetitions, score_gaps, sides
from sparsepo_dist.inspection.measures import Measures
from sparsepo_dist.inspection.source import Source

LAYOUTS: tuple[Layout, ...] = ("prefix_shared", "packed")
"""Whose tokens depend on the pairs alone, and not on which of them make a micro-batch."""


def summary(
    config: DataConfig, sources: Sequence[Source], train: Measures, heldout: Measures | None
) -> dict[str, Any]:  # fmt: skip
    """Everything that is counted; shares are left to the reader.

    Args:
        config: of the run.
        sources: of `data.train`, and of `data.heldout` where it is given.
        train: pairs to train on, whole.
        heldout: pairs held out, whole.
    """
    parts = {"train": train} if heldout is None else {"train": train, "heldout": heldout}
    limits = Limits.of(config)
    return {
        "sources": [_source(source) for source in sources],
        "on_bad_row": config.on_bad_row,
        "on_long": config.on_long,
        **{name: _part(measures, limits, config) for name, measures in parts.items()},
        "leakage": None if heldout is None else leakage(train, heldout),
        "stops": _stops(config, sources, list(parts.values())),
    }


def _source(source: Source) -> dict[str, Any]:
    dropped = source.remarks.dropped
    return {
        "name": source.name,
        "rows": source.good_rows + dropped.total(),
        "bad_rows": dropped.total(),
        "reasons": [
            {"rows": count, "first": str(source.remarks.first[reason])} for reason, count in dropped.most_common()
        ],
        "pairs": len(source.pairs),
    }


def _part(measures: Measures, limits: Limits, config: DataConfig) -> dict[str, Any]:
    return {
        "pairs": len(measures),
        "tokens": lengths(measures),
        "limits": [cuts_of(measures, one) for one in ladder(measures, limits)],
        "repetitions": repetitions(measures),
        "sides": sides(measures),
        "scores": score_gaps(measures),
        "computed": _computed(measures, limits, config),
    }


def _computed(measures: Measures, limits: Limits, config: DataConfig) -> dict[str, Any]:
    """Tokens of an epoch, within the limits: one pair of each row, whose pairs are drawn alike often."""
    found = cut(measures, limits)
    kept = found.kept(drop=config.on_long == "drop")
    of_row = np.bincount(measures.row[kept])
    budget = config.tokens_per_micro_batch
    layouts = {}
    for layout in LAYOUTS:
        tokens = packed_tokens(found.prompt[kept], found.chosen[kept], found.rejected[kept], layout)
        epoch = round(float((tokens / of_row[measures.row[kept]]).sum()))
        layouts[layout] = {
            "tokens": epoch,
            "least_micro_batches": -(-epoch // budget),
            "pairs_beyond_a_micro_batch": int((tokens > budget).sum()),
        }
    return {"pairs": int((of_row > 0).sum()), "tokens_per_micro_batch": budget, "layouts": layouts}


def _stops(config: DataConfig, sources: Sequence[Source], parts: Sequence[Measures]) -> list[str]:
    """Why a run with these options would not start."""
    limits, why = Limits.of(config), []
    found = [cut(measures, limits) for measures in parts]
    for source in sources if config.on_bad_row == "stop" else ():
        if source.remarks.dropped:
            first = next(iter(source.remarks.first.values()))
            why.append(f"{source.remarks.dropped.total()} bad rows (data.on_bad_row: stop), the first: {first}")
    long = sum(int(one.long.sum()) for one in found)
    if config.on_long == "stop" and long:
        why.append(f"{long} pairs are longer than the limits (data.on_long: stop)")
    if config.on_long == "cut" and config.on_bad_row == "stop":
        alike = sum(int((one.full | one.alike).sum()) for one in found)
        untrained = sum(int(one.untrained.sum()) for one in found)
        for what, count in (("to tell apart", alike), ("that is trained on", untrained)):
            if count:
                why.append(f"the limits leave nothing {what} in {count} pairs (data.on_bad_row: stop)")
    if any(not one.kept(drop=config.on_long == "drop").any() for one in found):
        why.append("no usable pair is left within the limits")
    return why

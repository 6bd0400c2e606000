"""What the page's charts draw: metrics of all runs over the steps, and histograms of their masks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsepo_dist.report.histogram import LABELS
from sparsepo_dist.report.interval import share, wilson
from sparsepo_dist.report.pages.shown import ShownRun

_DIGITS = 6
_SIDES = ("chosen", "rejected")
ACCURACY = "rewards/accuracies"
CHARTS, OTHER = "charts", "other"
"""Places of the page: what everybody looks at, and all other metrics."""
MASKS = (("reward_mask", "Reward mask"), ("divergence_mask", "Divergence mask"))
_NOT_DRAWN = {"epoch", "pairs"}


@dataclass(frozen=True)
class Chart:
    """One set of axes."""

    title: str
    unit: str
    metrics: tuple[str, ...]
    lines: tuple[str, ...]
    """What each metric is called."""
    percent: bool = False
    """Whether values are shares."""


def _sides(title: str, unit: str, metric: str, *, percent: bool = False) -> Chart:
    return Chart(title, unit, tuple(f"{metric}/{side}" for side in _SIDES), _SIDES, percent)


_CHOSEN = (
    Chart("Loss", "nats per pair", ("loss",), ("loss",)),
    Chart("Reward margin", "beta x nats", ("rewards/margins",), ("chosen minus rejected",)),
    Chart("Reward accuracy", "share of pairs", (ACCURACY, "rewards/ties"), ("chosen above rejected", "tied"), True),
    _sides("Implicit reward", "beta x nats", "rewards"),
    Chart("Learning rate", "", ("learning_rate",), ("learning rate",)),
    Chart("Gradient norm", "before clipping", ("grad_norm",), ("gradient norm",)),
    Chart("Speed", "tokens per second", ("tokens_per_second",), ("tokens per second",)),
    _sides("Log-probability", "nats per response", "logps"),
    _sides("KL per response, unmasked", "nats", "kl"),
    _sides("KL per response, masked", "nats", "masked_kl"),
    _sides("KL per token", "nats", "token_kl"),
    *(
        Chart(
            f"{name}: sparsity", "share of tokens at 0",
            (*(f"sparsity/{key}/{side}" for side in _SIDES), f"sparsity/{key}/pairs"), (*_SIDES, "whole pairs"), True,
        )
        for key, name in MASKS
    ),
    *(
        Chart(
            f"{name}: weight of tokens not at 0", "weight",
            (f"weight/{key}/mean", f"weight/{key}/median"), ("mean", "median"),
        )
        for key, name in MASKS
    ),
)  # fmt: skip


def charts(runs: Sequence[ShownRun]) -> list[dict[str, Any]]:
    """Every chart for which a run has a metric, in the page's order; the series of each, by run."""
    known = {metric for chart in _CHOSEN for metric in chart.metrics} | _NOT_DRAWN
    found = dict.fromkeys(metric for run in runs for metric, _ in run.files.curves)
    others = [Chart(metric, "", (metric,), (metric,)) for metric in sorted(found) if metric not in known]
    drawn = []
    for place, group in ((CHARTS, _CHOSEN), (OTHER, others)):
        for chart in group:
            series = list(_series(chart, runs))
            if series:
                drawn.append(
                    {"place": place, "title": chart.title, "unit": chart.unit, "lines": chart.lines,
                     "percent": chart.percent, "series": series}
                )  # fmt: skip
    return drawn


def steps(drawn: Sequence[dict[str, Any]]) -> list[int]:
    """The first and the last step of any chart."""
    every = [step for chart in drawn for one in chart["series"] for step in (one["x"][0], one["x"][-1])]
    return [min(every, default=0), max(every, default=1)]


def _series(chart: Chart, runs: Sequence[ShownRun]) -> Iterable[dict[str, Any]]:
    for number, run in enumerate(runs):
        for line, metric in enumerate(chart.metrics):
            for split in ("train", "eval"):
                steps, values = run.files.series(metric, split)
                if not steps:
                    continue
                one = {"run": number, "line": line, "heldout": split == "eval", "x": steps, "y": _short(values)}
                curve = run.files.curves[metric, split]
                if curve.thinned and split == "train":
                    means = curve.means()
                    one["means"] = {"x": _short(means[0]), "y": _short(means[1])}
                if metric == ACCURACY and split == "eval":
                    one |= _intervals(steps, values, dict(zip(*run.files.series("pairs", "eval"), strict=True)))
                yield one


def _intervals(steps: Sequence[int], values: Sequence[float], pairs: dict[int, float]) -> dict[str, list[Any]]:
    """Pairs and Wilson's 95 % interval of each accuracy; null where a run of an older version does not say."""
    counts = [int(pairs.get(step, 0)) or None for step in steps]
    bounds = [
        wilson(known * count, count) if count and known is not None else (None, None)
        for known, count in zip(map(share, values), counts, strict=True)
    ]
    return {"pairs": counts, "low": [low for low, _ in bounds], "high": [high for _, high in bounds]}


def histograms(runs: Sequence[ShownRun]) -> list[dict[str, Any]]:
    """One for each mask and run; of the bins those that any run fills, so that runs have the same axis."""
    drawn = []
    for key, _ in MASKS:
        having = [(number, run.files.histograms[key]) for number, run in enumerate(runs) if key in run.files.histograms]
        filled = np.flatnonzero(sum((np.sum(columns.counts, 0) for _, columns in having), np.zeros(len(LABELS))))
        bins = [int(filled[0]), int(filled[-1]) + 1] if len(filled) else [1, 2]
        for number, columns in having:
            counts = [column.astype(int).tolist() for column in columns.counts]
            drawn.append({"run": number, "place": key, "steps": columns.steps, "counts": counts, "bins": bins})
    return drawn


def _short(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else value for value in values]

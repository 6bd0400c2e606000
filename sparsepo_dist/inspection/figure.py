"""A data set at a glance: how long its texts are, where a run's limits lie, what its scores say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from sparsepo_dist.data.tokens.limits import Limits
from sparsepo_dist.disk import open_new
from sparsepo_dist.inspection.measures import Measures
from sparsepo_dist.report.figures import BLUE, DOTS_PER_INCH, GREEN, ORANGE, PURPLE

Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]
_BINS = 50
_LIMIT = "#444444"
_FAR = 3
"""Texts longer than so many times the 99th percentile are counted, not drawn."""
_BEYOND = 1.5
"""A limit further out than so many times the end of the axis is named, not drawn."""


def draw_data(measures: Measures, limits: Limits, path: Path) -> Path:
    """Write the figure of pairs that are not cut yet."""
    panels: list[Callable[[Axes], None]] = [
        lambda axes: _prompts(axes, measures, limits),
        lambda axes: _responses(axes, measures),
        lambda axes: _wholes(axes, measures, limits),
        lambda axes: _cut(axes, measures, limits),
    ]
    if not np.isnan(measures.gap).all():
        panels += [lambda axes: _gaps(axes, measures), lambda axes: _longer(axes, measures)]
    columns = len(panels) // 2
    figure = Figure(figsize=(4.6 * columns, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(2, columns).flat, panels, strict=True):
        panel(axes)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    with open_new(path) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return path


def _prompts(axes: Axes, measures: Measures, limits: Limits) -> None:
    _histogram(axes, {f"prompts of {len(measures):,} pairs": (measures.prompt, PURPLE)}, "tokens of a prompt")
    _limit(axes, "max_prompt_length", limits.prompt, measures.prompt)
    axes.set_title("Prompts", loc="left", fontsize=11)


def _responses(axes: Axes, measures: Measures) -> None:
    sides = {"chosen": (measures.chosen, BLUE)}
    if measures.two.any():
        sides["rejected"] = (measures.rejected[measures.two], ORANGE)
    _histogram(axes, sides, "tokens of a response")
    axes.set_title("Responses", loc="left", fontsize=11)


def _wholes(axes: Axes, measures: Measures, limits: Limits) -> None:
    wholes = measures.prompt + measures.response
    _histogram(axes, {"prompt + longer response": (wholes, GREEN)}, "tokens of a prompt and its longer response")
    _limit(axes, "max_length", limits.whole, wholes)
    axes.set_title("Prompt and response", loc="left", fontsize=11)


def _cut(axes: Axes, measures: Measures, limits: Limits) -> None:
    wholes = measures.prompt + measures.response
    reach = max(_reach(measures.prompt), _reach(wholes))
    places = np.linspace(0, reach, 400)
    for name, lengths, limit, colour in (
        ("max_prompt_length", measures.prompt, limits.prompt, PURPLE),
        ("max_length", wholes, limits.whole, GREEN),
    ):
        longer = 1 - np.searchsorted(np.sort(lengths), places, side="right") / len(lengths)
        share = float((lengths > limit).mean())
        axes.plot(places, longer, color=colour, linewidth=1.6, label=f"{name} {limit:,}: {share:.1%} longer")
        if limit <= reach:
            axes.plot([limit], [share], "o", color=colour, markersize=6)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("limit, tokens")
    axes.set_ylabel("pairs that are longer")
    _legend(axes)
    axes.set_title("What is longer than a limit", loc="left", fontsize=11)


def _gaps(axes: Axes, measures: Measures) -> None:
    gap = measures.gap[~np.isnan(measures.gap)]
    _histogram(axes, {f"{len(gap):,} pairs with scores": (gap, BLUE)}, "chosen score minus rejected score")
    axes.axvline(0, color=_LIMIT, linewidth=1, linestyle="--")
    axes.set_title("Score gaps", loc="left", fontsize=11)


def _longer(axes: Axes, measures: Measures) -> None:
    of = measures.of(measures.two)
    longer = of.chosen - of.rejected
    label = f"chosen is longer in {(longer > 0).mean():.0%} of pairs"
    _histogram(axes, {label: (longer, ORANGE)}, "tokens of chosen minus tokens of rejected")
    axes.axvline(0, color=_LIMIT, linewidth=1, linestyle="--")
    axes.set_title("Length of responses", loc="left", fontsize=11)


def _histogram(axes: Axes, sides: Mapping[str, tuple[Numbers, str]], unit: str) -> None:
    values = np.concatenate([one for one, _ in sides.values()])
    edges = _edges(values)
    for name, (one, colour) in sides.items():
        counts, _ = np.histogram(one, edges)
        axes.stairs(counts, edges, color=colour, alpha=0.22, fill=True)
        axes.stairs(counts, edges, color=colour, linewidth=1.3, label=name)
    beyond = int((values > edges[-1]).sum())
    if beyond:
        axes.plot([], [], " ", label=f"{beyond:,} further out, up to {values.max():,}")
    axes.set_xlabel(unit)
    axes.set_ylabel("pairs")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=values.dtype.kind != "f"))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _legend(axes)


def _edges(values: Numbers) -> Numbers:
    """Bins of whole tokens; of scores, as they fall."""
    if values.dtype.kind == "f":
        return np.histogram_bin_edges(values, _BINS)
    low = int(values.min())
    high = int(values.max() if low < 0 else _reach(values))
    width = -(-(high - low + 1) // _BINS)
    return np.arange(low, high + width + 1, width)


def _reach(lengths: Numbers) -> float:
    """Where axes of tokens end: one text that is very long would make the rest a narrow strip."""
    return min(float(lengths.max()), max(_FAR * float(np.percentile(lengths, 99)), 1.0))


def _limit(axes: Axes, name: str, limit: int, lengths: Numbers) -> None:
    if limit > _BEYOND * _reach(lengths):
        label = f"{name} {limit:,} is further out"
        axes.plot([], [], color=_LIMIT, linewidth=1, linestyle="--", label=label)
    else:
        longer = float((lengths > limit).mean())
        axes.axvline(limit, color=_LIMIT, linewidth=1, linestyle="--", label=f"{name} {limit:,}: {longer:.1%} longer")
    _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16))

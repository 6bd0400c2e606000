"""Sheets of axes in the report's style."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparsepo_dist.disk import open_new
from sparsepo_dist.experiments.drawing.numbers.intervals import Interval
from sparsepo_dist.report.figures import DOTS_PER_INCH


def new_figure(width: float, height: float) -> Figure:
    """An empty sheet, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, title: str, below: str, beside: str, size: float = 10) -> None:
    """Titles and what surrounds the axes."""
    axes.set_title(title, loc="left", fontsize=size)
    axes.set_xlabel(below, fontsize=8.5)
    axes.set_ylabel(beside, fontsize=8.5)
    axes.tick_params(labelsize=7.5)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def around(values: Sequence[Interval]) -> tuple[float, float]:
    """Limits that show all means, and as much of the intervals as is not far wider than they are."""
    means = [value.mean for value in values]
    ends = [end for value in values for end in (value.low, value.high) if end is not None]
    room = (max(means) - min(means)) or abs(means[0]) or 1.0
    low = max(min([*means, *ends]), min(means) - 0.5 * room)
    high = min(max([*means, *ends]), max(means) + 0.5 * room)
    return low - 0.04 * room, high + 0.04 * room


def bars(values: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """How far intervals reach below and above their means; 0 where none is known."""
    below = [0.0 if value.low is None else value.mean - value.low for value in values]
    above = [0.0 if value.high is None else value.high - value.mean for value in values]
    return below, above


def label_below(figure: Figure, columns: int = 4) -> None:
    """One legend for all axes of a sheet, each label once."""
    found = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if found:
        figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=columns, fontsize=7.5, frameon=False
        )


def finish(figure: Figure, path: Path) -> Path:
    """Write a sheet as PNG."""
    with open_new(path) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return path

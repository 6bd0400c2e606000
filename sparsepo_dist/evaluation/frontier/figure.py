"""Reward against KL, one colour per method, each method's frontier drawn; as the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparsepo_dist.evaluation.frontier.pareto import pareto
from sparsepo_dist.report.figures import BLUE, DOTS_PER_INCH, GREEN, ORANGE, PURPLE

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000", "#999933")
_MARKERS = ("o", "s", "^", "D")


def draw_frontier(rows: Sequence[dict[str, Any]], origin: dict[str, Any], scorer: str, path: Path) -> Path:
    """Write the figure; `rows` and `origin`, the reference's own row, are as the table has them."""
    figure = Figure(figsize=(6.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        _draw_method(axes, [row for row in rows if row["method"] == method], *look(number))
    axes.errorbar(
        [0], [origin["reward"]], yerr=[origin["reward_stderr"]], fmt="none", ecolor="#666666", alpha=0.35, linewidth=0.8
    )
    axes.plot([0], [origin["reward"]], "*", color="#666666", markersize=10, label=origin["method"])
    axes.set_title("Reward against KL", loc="left", fontsize=11)
    axes.set_xlabel("response-level KL to the reference, nats")
    axes.set_ylabel(f"mean reward\n({scorer})" if len(scorer) < 60 else "mean reward")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.15), ncols=4)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def look(number: int) -> tuple[str, str]:
    """Colour and marker of a figure's methods; where colours come round again, the marker is another."""
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number // len(_COLOURS) % len(_MARKERS)]


def _draw_method(axes: Axes, rows: Sequence[dict[str, Any]], colour: str, marker: str) -> None:
    points = [(row["kl"], row["reward"]) for row in rows]
    front = pareto(points)
    axes.errorbar(
        [row["kl"] for row in rows], [row["reward"] for row in rows],
        xerr=[row["kl_stderr"] for row in rows], yerr=[row["reward_stderr"] for row in rows],
        fmt="none", ecolor=colour, alpha=0.35, linewidth=0.8,
    )  # fmt: skip
    beaten = [point for place, point in enumerate(points) if place not in front]
    axes.plot(
        [kl for kl, _ in beaten], [reward for _, reward in beaten],
        marker, color=colour, markersize=5, markerfacecolor="none", alpha=0.6,
    )  # fmt: skip
    axes.plot(
        [points[place][0] for place in front], [points[place][1] for place in front],
        marker=marker, color=colour, markersize=5, linewidth=1.4, label=rows[0]["method"],
    )  # fmt: skip

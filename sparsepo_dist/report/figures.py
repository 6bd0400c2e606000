"""Figures of a run over its steps: loss, rewards, token KL, mask sparsity and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sparsepo_dist.disk import open_new
from sparsepo_dist.report.histogram import Columns, draw_histograms
from sparsepo_dist.report.reading import RunFiles

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # Okabe-Ito: told apart by every eye
DOTS_PER_INCH = 150


@dataclass(frozen=True)
class Panel:
    """One set of axes."""

    title: str
    unit: str
    lines: tuple[tuple[str, str, str], ...]
    """(metric, label, colour)."""
    percent: bool = False


_SIDES = (("chosen", BLUE), ("rejected", ORANGE))
_MASKS = (("reward_mask", "Reward"), ("divergence_mask", "Divergence"))
FIGURES: dict[str, tuple[Panel, ...]] = {
    "loss": (Panel("Loss", "nats per pair", (("loss", "loss", BLUE),)),),
    "rewards": (
        Panel("Implicit reward", "beta x nats", tuple((f"rewards/{s}", s, c) for s, c in _SIDES)),
        Panel("Reward margin", "beta x nats", (("rewards/margins", "chosen minus rejected", GREEN),)),
        Panel(
            "Reward accuracy",
            "share of pairs",
            (("rewards/accuracies", "chosen above rejected", PURPLE), ("rewards/ties", "tied", ORANGE)),
            True,
        ),
    ),
    "token_kl": (
        Panel("KL per token", "nats", tuple((f"token_kl/{s}", s, c) for s, c in _SIDES)),
        Panel(
            "KL per response",
            "nats",
            (
                ("kl/chosen", "chosen", BLUE),
                ("kl/rejected", "rejected", ORANGE),
                ("masked_kl/chosen", "chosen, masked", GREEN),
                ("masked_kl/rejected", "rejected, masked", PURPLE),
            ),
        ),
    ),
    "sparsity": tuple(
        Panel(
            f"{name} mask",
            "share at 0",
            (
                *((f"sparsity/{key}/{s}", f"tokens, {s}", c) for s, c in _SIDES),
                (f"sparsity/{key}/pairs", "whole pairs", GREEN),
            ),
            True,
        )
        for key, name in _MASKS
    ),
    "mask_weights": tuple(
        Panel(
            f"{name} mask",
            "weight of tokens not at 0",
            ((f"weight/{key}/mean", "mean", BLUE), (f"weight/{key}/median", "median", ORANGE)),
        )
        for key, name in _MASKS
    ),
}


def draw_figures(run: RunFiles, folder: Path) -> list[Path]:
    """Write the figures for which the run has any metric; their paths."""
    written = []
    for name, panels in FIGURES.items():
        filled = [panel for panel in panels if any(_has(run, metric) for metric, _, _ in panel.lines)]
        if filled:
            written.append(_draw([partial(_draw_panel, run, panel) for panel in filled], folder / f"{name}.png"))
    masks = [(name, run.histograms[key]) for key, name in _MASKS if key in run.histograms]
    if masks:
        written.append(_draw([partial(_draw_mask, *mask) for mask in masks], folder / "mask_histograms.png"))
    return written


def _has(run: RunFiles, metric: str) -> bool:
    return any(run.series(metric, split)[0] for split in ("train", "eval"))


def _draw(panels: list[Callable[[Axes], None]], path: Path) -> Path:
    figure = Figure(figsize=(4.6 * len(panels) + 0.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes)
    with open_new(path) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return path


def _draw_panel(run: RunFiles, panel: Panel, axes: Axes) -> None:
    for metric, label, colour in panel.lines:
        steps, values = run.series(metric, "train")
        if steps:
            axes.plot(steps, values, color=colour, linewidth=1, alpha=0.75, label=f"{label} (training)")
        steps, values = run.series(metric, "eval")
        if steps:
            axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=5, label=f"{label} (held out)")
    _label(axes, panel.title, panel.unit)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.percent:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2)


def _draw_mask(name: str, columns: Columns, axes: Axes) -> None:
    draw_histograms(columns, axes)
    _label(axes, f"{name} mask (training)", "weight")


def _label(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))

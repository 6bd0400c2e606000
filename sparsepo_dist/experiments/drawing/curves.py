"""Figures 3, 6 and 7: mask sparsity, rewards and token KL over the steps, a line for each beta."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sparsepo_dist.experiments.drawing.canvas import around, finish, new_figure, tidy
from sparsepo_dist.experiments.drawing.numbers.grouping import Variant, left_out, over_beta, variants
from sparsepo_dist.experiments.drawing.numbers.intervals import ANYWHERE, POSITIVE, SHARE, Interval, over_seeds
from sparsepo_dist.experiments.drawing.numbers.reading import MASKS, Collected
from sparsepo_dist.experiments.drawing.parts import Picture, Section

MOST_STEPS = 60
"""Of a line over the steps: more are put together in as many stretches, and averaged."""
_MOST_ROWS = 12
_LEAST_EVALUATIONS = 5
_SIDES = ("chosen", "rejected")


class Panel(NamedTuple):
    """One column of a sheet."""

    title: str
    metric: str
    unit: str
    percent: bool = False


SPARSITY = tuple(
    Panel(f"{title}, {side}", f"sparsity/{mask}/{side}", "tokens at 0", True)
    for mask, title in MASKS.items()
    for side in _SIDES
)
TOKEN_KL = tuple(Panel(f"KL per token, {side}", f"token_kl/{side}", "nats") for side in _SIDES)
REWARDS = (
    *(Panel(f"Implicit reward, {side}", f"rewards/{side}", "beta x nats") for side in _SIDES),
    Panel("Margin", "rewards/margins", "beta x nats"),
)


_FORMS = (
    "Before the mask, on the pairs' own responses, in the form that the objective has: KL(pi || pi_ref) with "
    "objective.divergence policy, KL(pi_ref || pi) with reference and in TDPO."
)


class Line(NamedTuple):
    """A metric over the steps, over the seeds of a variant."""

    steps: list[float]
    values: list[Interval]


def figure3(collected: Collected, folder: Path) -> Section:
    """Sparsity of both masks over the steps."""
    return _over_steps("figure3", "Figure 3: sparsity of the masks over the steps", SPARSITY, collected, folder)


def figure6(collected: Collected, folder: Path) -> Section:
    """Rewards over the steps."""
    return _over_steps("figure6", "Figure 6: implicit rewards over the steps", REWARDS, collected, folder)


def figure7(collected: Collected, folder: Path) -> Section:
    """Token KL over the steps."""
    return _over_steps("figure7", "Figure 7: KL per token over the steps", TOKEN_KL, collected, folder, _FORMS)


def _over_steps(
    name: str, title: str, panels: Sequence[Panel], collected: Collected, folder: Path, said: str = ""
) -> Section:
    """`said`: what is to be known of the metric."""
    gridded, alone = over_beta(variants(collected.trained))
    having = [variant for variant in gridded if _has(collected, variant, panels)]
    if not having:
        return Section(title, notes=("Nothing to draw: no run has such a metric.",))
    split = _split(collected, having, panels)
    kinds = list(dict.fromkeys(variant.kind for variant in having))
    pictures = []
    for start in range(0, len(kinds), _MOST_ROWS):
        part = kinds[start : start + _MOST_ROWS]
        number = "" if len(kinds) <= _MOST_ROWS else f"-{start // _MOST_ROWS + 1}"
        path = _sheet(
            folder / f"{name}{number}.png", panels, part, having,
            lambda variant, metric: _line(collected, variant, metric, split),
        )  # fmt: skip
        runs = tuple(run for variant in having if variant.kind in part for run in variant.names)
        pictures.append(Picture(path, f"{_caption(split)} {said}".strip(), runs))
    return Section(title, tuple(pictures), left_out(alone))


def _caption(split: str) -> str:
    of = "the held-out pairs" if split == "eval" else f"training batches, in at most {MOST_STEPS} stretches of steps"
    return (
        f"Means over the pairs of {of}; a row for each method, a line for each beta. Lines: mean over seeds; bands: "
        "95 % of that mean by Student's t over seeds, cut at the edges of the axes."
    )


def _has(collected: Collected, variant: Variant, panels: Sequence[Panel]) -> bool:
    return any(_line(collected, variant, panel.metric, split) for panel in panels for split in ("train", "eval"))


def _split(collected: Collected, having: Sequence[Variant], panels: Sequence[Panel]) -> str:
    """Held-out pairs are the same at every step, batches are not: these are for runs that were evaluated too seldom."""
    for variant in having:
        for panel in panels:
            held_out = _line(collected, variant, panel.metric, "eval")
            seldom = held_out is None or len(held_out.steps) < _LEAST_EVALUATIONS
            if seldom and _line(collected, variant, panel.metric, "train") is not None:
                return "train"
    return "eval"


def _line(collected: Collected, variant: Variant, metric: str, split: str) -> Line | None:
    """Over the steps that all of its runs have; None where one has none."""
    series = []
    for run in variant.runs:
        files = collected.files(run)
        steps, values = files.series(metric, split) if files is not None else ([], [])
        if steps:
            series.append((np.asarray(steps), np.asarray(values)))
    return stretched(series, _within(metric)) if series else None


def _within(metric: str) -> tuple[float, float]:
    return SHARE if metric.startswith("sparsity/") else POSITIVE if metric.startswith("token_kl/") else ANYWHERE


def stretched(series: Sequence[tuple[np.ndarray, np.ndarray]], within: tuple[float, float] = ANYWHERE) -> Line:
    """Steps and values of several runs to means over runs with intervals, in at most MOST_STEPS stretches of steps.

    Each run's values in a stretch are averaged first; stretches that not all runs have values in are left out.
    """
    steps = np.unique(np.concatenate([of for of, _ in series]))
    parts = np.array_split(steps, min(MOST_STEPS, len(steps)))
    line = Line([], [])
    for part in parts:
        means = [
            float(values[inside].mean())
            for of, values in series
            if (inside := (of >= part[0]) & (of <= part[-1])).any()
        ]
        if len(means) == len(series):
            line.steps.append(float(part.mean()))
            line.values.append(over_seeds(means, within))
    return line


def _sheet(
    path: Path, panels: Sequence[Panel], kinds: Sequence[str], having: Sequence[Variant],
    line_of: Callable[[Variant, str], Line | None],
) -> Path:  # fmt: skip
    betas = sorted({variant.beta for variant in having if variant.beta is not None})
    figure = new_figure(3.1 * len(panels) + 0.3, 2.5 * len(kinds) + 0.4)
    for kind, strip in zip(kinds, np.ravel(figure.subfigures(len(kinds), 1, squeeze=False)), strict=True):
        strip.suptitle(kind, x=0.01, ha="left", fontsize=10, fontweight="bold")
        own = [variant for variant in having if variant.kind == kind]
        drawn: dict[Panel, tuple[Axes, list[tuple[Line, str]]]] = {}
        for axes, panel in zip(strip.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            drawn[panel] = (
                axes,
                [
                    (line, _beta_colour(variant.beta, betas))
                    for variant in own
                    if (line := line_of(variant, panel.metric))
                ],
            )
            axes.set_xlabel("optimizer step" if kind == kinds[-1] else "")
        for panel, (axes, lines) in drawn.items():
            alike = [line for other, (_, those) in drawn.items() if other.unit == panel.unit for line, _ in those]
            _panel(axes, panel, lines, around([value for line in alike for value in line.values]) if alike else None)
    handles = [Line2D([], [], color=_beta_colour(at, betas), label=f"beta {at:g}") for at in betas]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(8, len(handles)), fontsize=8.5, frameon=False
        )
    return finish(figure, path)


def _panel(axes: Axes, panel: Panel, lines: Sequence[tuple[Line, str]], limits: tuple[float, float] | None) -> None:
    for line, colour in lines:
        _draw_line(axes, line, colour)
    tidy(axes, panel.title, axes.get_xlabel(), panel.unit, size=9)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if not lines:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, fontsize=8)
        axes.set_yticks([])
    elif panel.percent:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.set_ylim(limits)


def _beta_colour(beta: float | None, betas: Sequence[float]) -> str:
    """From dark to light in the order of betas."""
    place = 0.0 if beta is None or len(betas) < 2 else 0.85 * betas.index(beta) / (len(betas) - 1)
    return to_hex(matplotlib.colormaps["viridis"](place))


def _draw_line(axes: Axes, line: Line, colour: str) -> None:
    means = [value.mean for value in line.values]
    low = [value.mean if value.low is None else value.low for value in line.values]
    high = [value.mean if value.high is None else value.high for value in line.values]
    axes.fill_between(line.steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(line.steps, means, color=colour, linewidth=1.3, marker="o" if len(means) < 12 else "", markersize=3)

"""Figure 8: where runs end over beta, all methods on one sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.ticker import PercentFormatter

from sparsepo_dist.evaluation.frontier.figure import look
from sparsepo_dist.evaluation.tables import Column
from sparsepo_dist.experiments.drawing.canvas import around, bars, finish, label_below, new_figure, tidy
from sparsepo_dist.experiments.drawing.numbers.grouping import Variant, left_out, over_beta, shown, variants
from sparsepo_dist.experiments.drawing.numbers.intervals import ANYWHERE, LEGEND, POSITIVE, SHARE, Interval, over_seeds
from sparsepo_dist.experiments.drawing.numbers.reading import MASKS, Collected, mean_of
from sparsepo_dist.experiments.drawing.parts import RUNS, Picture, Section, Table

_SIDES = ("chosen", "rejected")


class Panel(NamedTuple):
    """What is shown over beta: the mean of some metrics on held-out pairs."""

    key: str
    title: str
    unit: str
    within: tuple[float, float]
    metrics: tuple[str, ...]


_PANELS = (
    Panel("kl", "KL per token", "nats", POSITIVE, tuple(f"token_kl/{side}" for side in _SIDES)),
    Panel("margin", "Reward margin", "beta x nats", ANYWHERE, ("rewards/margins",)),
    *(
        Panel(mask, f"{title}: tokens at 0", "share", SHARE, tuple(f"sparsity/{mask}/{side}" for side in _SIDES))
        for mask, title in MASKS.items()
    ),
)


def figure8(collected: Collected, folder: Path) -> Section:
    """Where token KL, margin and sparsity end, over beta."""
    title = "Figure 8: where runs end, over beta"
    gridded, alone = over_beta(variants(collected.trained))
    having = [variant for variant in gridded if variant.beta is not None]
    found = {panel.key: _ends(collected, having, panel) for panel in _PANELS}
    panels = [panel for panel in _PANELS if found[panel.key]]
    if not panels:
        return Section(title, notes=("Nothing to draw: no run of a grid over objective.beta has held-out metrics.",))
    path = _draw(having, panels, found, folder / "figure8.png")
    rows = [
        {
            "method": shown(variant.method), "settings": variant.set or None, "beta": variant.beta,
            **{panel.key: found[panel.key].get(variant) for panel in panels}, RUNS: variant.names,
        }
        for variant in having
    ]  # fmt: skip
    columns = [Column("method", "Method"), Column("settings", "Set besides"), Column("beta", "beta", "g")]
    columns += [Column(panel.key, panel.title, ".3f") for panel in panels]
    runs = tuple(name for variant in having for name in variant.names)
    caption = (
        "Held-out pairs at the end, means of chosen and rejected responses; bars: 95 % by Student's t over seeds, cut "
        "at the edges. A reward margin has beta in it, and SimPO's is per token: compare it within a method."
    )
    table = Table("figure8", "Where runs end", tuple(columns), rows, (LEGEND,))
    return Section(title, (Picture(path, caption, runs), table), left_out(alone))


def _ends(collected: Collected, having: Sequence[Variant], panel: Panel) -> dict[Variant, Interval]:
    ends = {}
    for variant in having:
        values = [mean_of(collected.heldout(run), panel.metrics) for run in variant.runs]
        numbers = [value for value in values if value is not None]
        if numbers:
            ends[variant] = over_seeds(numbers, panel.within)
    return ends


def _draw(
    having: Sequence[Variant], panels: Sequence[Panel], found: Mapping[str, Mapping[Variant, Interval]], path: Path
) -> Path:
    figure = new_figure(3.4 * len(panels) + 0.3, 4.2)
    kinds = list(dict.fromkeys(variant.kind for variant in having))
    betas = sorted({variant.beta for variant in having if variant.beta is not None})
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        ends = found[panel.key]
        for number, kind in enumerate(kinds):
            own = [variant for variant in having if variant.kind == kind and variant in ends]
            colour, marker = look(number)
            # Methods at one beta stand side by side.
            aside = 0.5 * ((number + 0.5) / len(kinds) - 0.5)
            places = [betas.index(variant.beta) + aside for variant in own if variant.beta is not None]
            means = [ends[variant].mean for variant in own]
            reach = bars([ends[variant] for variant in own])
            axes.errorbar(places, means, yerr=reach, fmt="none", ecolor=colour, alpha=0.5, linewidth=1)
            axes.plot(places, means, marker=marker, color=colour, linewidth=1.1, markersize=4, label=kind)
        tidy(axes, panel.title, "beta", panel.unit)
        axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
        if panel.within == SHARE:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.set_ylim(*around(list(ends.values())))
    label_below(figure)
    return finish(figure, path)

"""Runs and results as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsepo_dist.errors import UserError
from sparsepo_dist.report.histogram import LABELS
from sparsepo_dist.report.pages import overview
from sparsepo_dist.report.pages.charts import CHARTS, MASKS, OTHER, charts, histograms, steps
from sparsepo_dist.report.pages.document import document
from sparsepo_dist.report.pages.results import is_results, results
from sparsepo_dist.report.pages.shown import ShownRun, distinct_names, read_runs
from sparsepo_dist.report.pages.tokens import pairs, quantities
from sparsepo_dist.report.reading import is_run


def page_of(folders: Sequence[Path], *, refresh_seconds: float | None = None) -> tuple[str, bool]:
    """The page of several folders, and whether all runs among them are finished.

    Args:
        folders: of runs, of results of evaluation drivers, or both.
        refresh_seconds: after which the page loads itself again.

    Raises:
        UserError: a folder is neither, one is named twice, or a file is damaged.
    """
    folders = list(folders)
    seen = [folder.resolve() for folder in folders]
    twice = next((folder for at, folder in enumerate(folders) if seen[at] in seen[:at]), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice: a page shows each folder once")
    neither = next((folder for folder in folders if not (is_run(folder) or is_results(folder))), None)
    if neither is not None:
        raise UserError(
            f"{neither} is not a run's folder (it has no metrics.jsonl) nor one of an evaluation's results (it has no "
            "tables, *.md)"
        )
    runs = read_runs([folder for folder in folders if is_run(folder)])
    others = [folder for folder in folders if not is_run(folder)]
    finished = all(run.finished for run in runs)
    tables = "".join(map(results, distinct_names(others), others))
    return _page(runs, tables, _title(runs, others), refresh_seconds), finished


def _title(runs: Sequence[ShownRun], others: Sequence[Path]) -> str:
    names = [*(run.name for run in runs), *distinct_names(others)]
    return names[0] if len(names) == 1 else f"{len(names)} folders: {', '.join(names)}"


def _page(runs: Sequence[ShownRun], tables: str, title: str, refresh_seconds: float | None) -> str:
    drawn, masks, shown = charts(runs), histograms(runs), pairs(runs)
    main, rest = ([one for one in drawn if one["place"] == place] for place in (CHARTS, OTHER))
    parts = [overview.overview(runs), overview.missing(runs), '<div class="bar" id="bar"></div>'] if runs else []
    if len(runs) > 1:
        parts.append(overview.differences(runs))
    if main:
        parts.append(
            f'<h2>Over the steps</h2><p class="note">A colour is a run; dots are evaluations on held-out pairs, bars '
            f'their 95 % intervals.</p><div class="charts" id="{CHARTS}"></div>'
        )
    if rest:
        parts.append(
            f'<details id="other-metrics"><summary>Other metrics ({len(rest)})</summary>'
            f'<div class="charts" id="{OTHER}"></div></details>'
        )
    if masks:
        parts.append(_histograms([one["place"] for one in masks]))
    parts.append(overview.rewards(runs))
    if shown:
        parts.append(
            '<h2>Tokens</h2><p class="note">Held-out responses under each run. Reward: blue tokens are rewarded, '
            "orange ones penalised; else, the greener, the larger. Dotted underline: exactly 0. Point at a token for "
            'its numbers.</p><div id="heatmaps"></div>'
        )
    parts += [tables, overview.configurations(runs)]
    data = {
        "runs": [{"name": run.name} for run in runs], "charts": drawn, "histograms": masks, "bins": LABELS,
        "steps": steps(drawn), "pairs": shown, "quantities": quantities(), "refresh": refresh_seconds,
    }  # fmt: skip
    return document(title, "".join(parts), data)


def _histograms(places: Sequence[str]) -> str:
    parts = ['<h2>Masks over the steps</h2><p class="note">The share of response tokens by weight, in training.</p>']
    for key, name in MASKS:
        if key in places:
            narrow = " narrow" if places.count(key) > 2 else ""
            parts.append(f'<h3>{name}</h3><div class="charts{narrow}" id="{key}"></div>')
    return "".join(parts)

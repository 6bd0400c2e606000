"""Tables 1 and 2, and Figure 5: what the drivers leaderboard, code and summary measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsepo_dist.evaluation.code.tasks import BENCHMARKS, KS, PAPER
from sparsepo_dist.evaluation.code.tasks import REPORTED as CODE
from sparsepo_dist.evaluation.frontier.figure import look
from sparsepo_dist.evaluation.leaderboard.normalisation import COLUMNS
from sparsepo_dist.evaluation.leaderboard.reported import DIALOGUE, DIALOGUE_SETTING, REPORTED, Figures
from sparsepo_dist.evaluation.leaderboard.tables import reported_rows
from sparsepo_dist.evaluation.summary.metrics import COLUMNS as METRICS
from sparsepo_dist.evaluation.summary.metrics import LENGTHS
from sparsepo_dist.evaluation.tables import Column
from sparsepo_dist.experiments.contracts import TrainedRun
from sparsepo_dist.experiments.drawing.canvas import bars, finish, label_below, new_figure, tidy
from sparsepo_dist.experiments.drawing.numbers.grouping import Variant, methods, variants
from sparsepo_dist.experiments.drawing.numbers.intervals import LEGEND, Interval, mean_over_prompts, over_seeds
from sparsepo_dist.experiments.drawing.numbers.reading import Collected
from sparsepo_dist.experiments.drawing.parts import RUNS, Picture, Section, Table

LEADERBOARD = (
    Column("model", "Model"), Column("source", "Source"), *(Column(c.name, c.name, ".2f") for c in COLUMNS),
    Column("average", "Average", ".2f"),
)  # fmt: skip
_TEMPERATURE = "temperature"


def table1(collected: Collected, folder: Path) -> Section:
    """The leaderboard, ours first, then the paper's."""
    tables = [
        Table(f"table1-{suite}", f"Open LLM Leaderboard v2, {suite}", LEADERBOARD,
              [*leaderboard_rows(collected, suite, {v: v.label for v in chosen(collected)}), *reported(DIALOGUE)],
              (f"Rows marked {REPORTED}: {DIALOGUE_SETTING}.", LEGEND))
        for suite in collected.suites("leaderboard")
    ]  # fmt: skip
    return Section("Table 1: Open LLM Leaderboard v2", tuple(tables), _none(tables, "leaderboard"))


def _none(parts: Sequence[object], driver: str) -> tuple[str, ...]:
    return () if parts else (f"Nothing to show: no run has results of evaluation/{driver}.py.",)


def chosen(collected: Collected) -> list[Variant]:
    """All variants; of methods whose grid was selected from, the winner's alone."""
    selected = collected.experiment.selected
    return [
        variant for variant in variants(collected.runs)
        if variant.method not in selected or selected[variant.method] in variant.names
    ]  # fmt: skip


def leaderboard_rows(collected: Collected, suite: str, labels: Mapping[Variant, str]) -> list[dict[str, Any]]:
    """Of the variants that the suite was run on, means over seeds."""
    rows = []
    for variant, label in labels.items():
        found = _first_rows(collected, variant, suite, "leaderboard.json")
        if found:
            columns = {c.name: _over_runs([row["scores"].get(c.name) for row in found.values()]) for c in COLUMNS}
            average = _over_runs([row["average"] for row in found.values()])
            source = ", ".join(dict.fromkeys(str(row["source"]) for row in found.values()))
            rows.append({"model": label, "source": source, **columns, "average": average, RUNS: list(found)})
    return rows


def reported(figures: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """The paper's rows of a leaderboard table."""
    return [
        {"model": row.model, "source": row.source, **row.scores, "average": row.average}
        for row in reported_rows(figures)
    ]


def _first_rows(collected: Collected, variant: Variant, suite: str, file: str) -> dict[str, dict[str, Any]]:
    """By run, what the driver says of the model that was evaluated, which is its table's first row."""
    found = {run.name: collected.result(run, suite, file) for run in variant.runs}
    return {name: result["rows"][0] for name, result in found.items() if result is not None}


def _over_runs(values: Sequence[float | None]) -> Interval | None:
    there = [value for value in values if value is not None]
    return over_seeds(there) if there else None


def table2(collected: Collected, folder: Path) -> Section:
    """Pass@k, ours first, then the paper's."""
    heads = [f"{benchmark.title} pass@{k}" for benchmark in BENCHMARKS.values() for k in KS]
    tables = []
    for suite in collected.suites("code"):
        rows: list[dict[str, Any]] = []
        for variant in chosen(collected):
            found = _first_rows(collected, variant, suite, "code.json")
            if found:
                keys = [key for key in next(iter(found.values())) if key not in ("model", "source")]
                scores = {key: _over_runs([row.get(key) for row in found.values()]) for key in keys}
                rows.append({"model": variant.label, "source": "measured", **scores, RUNS: list(found)})
        keys = list(dict.fromkeys(key for row in rows for key in row if key not in ("model", "source", RUNS)))
        rows += [
            {"model": name, "source": REPORTED, **dict(zip(heads, figures, strict=True))}
            for name, figures in CODE.items()
        ]
        columns = [Column("model", "Model"), Column("source", "Source")]
        columns += [Column(key, key, ".2f") for key in dict.fromkeys([*keys, *heads])]
        said = f"Percent. Rows marked {REPORTED}: {PAPER}, StarCoder 1B after MBPP; other problems, other numbers."
        tables.append(Table(f"table2-{suite}", f"Code, {suite}", tuple(columns), rows, (said, LEGEND)))
    return Section("Table 2: code", tuple(tables), _none(tables, "code"))


def figure5(collected: Collected, folder: Path) -> Section:
    """Each metric of summaries against temperature."""
    parts: list[Table | Picture] = []
    for suite in collected.suites("summary"):
        found = {variant: _by_temperature(collected, variant, suite) for variant in chosen(collected)}
        found = {variant: numbers for variant, numbers in found.items() if numbers}
        if not found:
            continue
        metrics = [
            metric for metric in METRICS if any(metric in at for numbers in found.values() for at in numbers.values())
        ]
        runs = tuple(run.name for variant in found for run in variant.runs)
        caption = (
            "Scores from 0 to 100, means over prompts; a low self-BLEU is diverse. Bars: 95 % by Student's t over "
            "seeds, or by bootstrap over prompts where there is one run."
        )
        scores = [metric for metric in metrics if metric not in LENGTHS]
        parts.append(Picture(_draw(found, scores, folder / f"figure5-{suite}.png"), caption, runs))
        rows = [
            {"model": variant.label, _TEMPERATURE: at, **scores, RUNS: variant.names}
            for variant, numbers in found.items() for at, scores in numbers.items()
        ]  # fmt: skip
        columns = [Column("model", "Model"), Column(_TEMPERATURE, "Temperature", "g")]
        columns += [Column(metric, METRICS[metric], ".2f") for metric in metrics]
        parts.append(Table(f"figure5-{suite}", f"Summaries, {suite}", tuple(columns), rows, (LEGEND,)))
    return Section("Figure 5: metrics of summaries against temperature", tuple(parts), _none(parts, "summary"))


def _by_temperature(collected: Collected, variant: Variant, suite: str) -> dict[float, dict[str, Interval]]:
    """Scores by temperature and metric."""
    by_run = [_of_run(run, result) for run in variant.runs if (result := collected.result(run, suite, "summary.json"))]
    found: dict[float, dict[str, Interval]] = {}
    for at in sorted({at for numbers in by_run for at in numbers}):
        for metric in METRICS:
            values = [numbers[at][metric] for numbers in by_run if metric in numbers.get(at, {})]
            if values:
                one = len(values) == 1
                found.setdefault(at, {})[metric] = values[0] if one else over_seeds([value.mean for value in values])
    return found


def _of_run(run: TrainedRun, result: Mapping[str, Any]) -> dict[float, dict[str, Interval]]:
    return {
        float(row[_TEMPERATURE]): {
            metric: mean_over_prompts(np.asarray(scores, dtype=float)) for metric, scores in row["per_prompt"].items()
        }
        for row in result["rows"]
    }


def _draw(found: Mapping[Variant, dict[float, dict[str, Interval]]], metrics: Sequence[str], path: Path) -> Path:
    figure = new_figure(3.4 * len(metrics) + 0.3, 3.8)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    names = methods([variant.runs[0] for variant in found])
    for place, metric in zip(axes, metrics, strict=True):
        for number, (variant, numbers) in enumerate(found.items()):
            at = [(temperature, scores[metric]) for temperature, scores in numbers.items() if metric in scores]
            colour, marker = look(number if len(found) > len(names) else names.index(variant.method))
            means = [value.mean for _, value in at]
            # Methods at one temperature stand side by side.
            xs = [temperature + 0.008 * (number - (len(found) - 1) / 2) for temperature, _ in at]
            place.errorbar(xs, means, yerr=bars([value for _, value in at]), fmt="none", ecolor=colour, alpha=0.5)
            place.plot(xs, means, marker=marker, color=colour, linewidth=1.2, markersize=4, label=variant.label)
        tidy(place, METRICS[metric], _TEMPERATURE, "score")
    label_below(figure)
    return finish(figure, path)

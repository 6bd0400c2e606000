"""The leaderboard's table, ours beside the paper's, as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.disk import write_whole
from sparsepo_dist.evaluation.leaderboard.changes import changes
from sparsepo_dist.evaluation.leaderboard.chat import in_words
from sparsepo_dist.evaluation.leaderboard.normalisation import COLUMNS, TASKS, average, column_score, normalised
from sparsepo_dist.evaluation.leaderboard.other_tables import other_section
from sparsepo_dist.evaluation.leaderboard.reported import DIALOGUE, DIALOGUE_SETTING, REPORTED, Figures

_NAMES = tuple(column.name for column in COLUMNS)


class Row(NamedTuple):
    """A model's line."""

    model: str
    source: str
    """Where its numbers come from: `reported`, or measured here and on how much."""
    scores: Mapping[str, float | None]
    """By column, 0..100; None where tasks are missing."""
    average: float | None
    """0..100; None while a column is missing."""


def measured_row(model: str, results: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> Row:
    """The line of a model evaluated here, from its tasks' results (see `column_score`) and their settings."""
    scores = {column.name: column_score(column, results) for column in COLUMNS}
    limit = None if settings["limit"] is None else f"limit {settings['limit']}"
    changed = "not by the leaderboard's rule" if changes(results, settings) else None
    return Row(model, ", ".join(filter(None, ("measured", limit, changed))), scores, average(scores))


def reported_rows(table: Mapping[str, Figures] = DIALOGUE) -> list[Row]:
    """The paper's lines, averages as printed there."""
    return [
        Row(model, REPORTED, dict(zip(_NAMES, figures[:-1], strict=True)), figures[-1])
        for model, figures in table.items()
    ]


def write_tables(
    folder: Path,
    row: Row,
    results: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
) -> list[Path]:
    """Write leaderboard.md, .csv and .json; their paths.

    Args:
        results: by task of the leaderboard.
        others: lm-eval's other tasks, as `other_tasks` has them.
    """
    rows = [row, *reported_rows()]
    texts = {
        "leaderboard.md": as_markdown(rows, results, settings, others),
        "leaderboard.csv": as_csv(rows),
        "leaderboard.json": as_json(rows, results, settings, others),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def as_json(
    rows: Sequence[Row],
    results: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
) -> str:
    """All that is known; missing scores are null."""
    document = {
        "columns": [*_NAMES, "average"],
        "rows": [row._asdict() for row in rows],
        "reported": DIALOGUE_SETTING,
        "settings": dict(settings),
        "tasks": {task: {**results[task], "scores": _task_scores(task, results[task])} for task in _in_order(results)},
        "missing": [task for task in TASKS if task not in results],
        "changes": changes(results, settings),
        "other_tasks": others,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """One line a model; missing scores are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "source", *_NAMES, "average"])
    for row in rows:
        figures = [*row.scores.values(), row.average]
        writer.writerow([row.model, row.source, *("" if figure is None else f"{figure:.2f}" for figure in figures)])
    return text.getvalue()


def as_markdown(
    rows: Sequence[Row],
    results: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
) -> str:
    """The table of models, what is missing, and the tables of tasks; other tasks alone where there is nothing else."""
    other = ["## Other tasks of lm-eval", other_section(others)] if others else []
    if others and not results:
        return "\n\n".join([f"# {rows[0].model}", *other]) + "\n"
    parts = ["# Open LLM Leaderboard v2", models_table(rows), f"Rows marked {REPORTED}: {DIALOGUE_SETTING}."]
    parts.append(in_words(settings["chat_template"]))
    changed = changes(results, settings)
    if changed:
        parts.append(f"**Changed from the leaderboard's rule: {'; '.join(changed)}.**")
    limit = settings["limit"]
    if limit is not None:
        parts.append(f"**A smoke run: at most {limit} documents of each task. These are not leaderboard scores.**")
    missing = [
        f"{column.name} ({len(column.choices.keys() - results.keys())} of {len(column.choices)} tasks)"
        for column in COLUMNS
        if column.choices.keys() - results.keys()
    ]
    if missing:
        parts.append(f"Missing, so that there is no average: {', '.join(missing)}.")
    if results:
        parts += ["## Tasks", _tasks_table(results)]
    return "\n\n".join([*parts, *other]) + "\n"


def models_table(rows: Sequence[Row]) -> str:
    """The table of models, in Markdown."""
    lines = [
        _line(["Model", "Source", *_NAMES, "Average"]),
        _line(["---", "---", *["---:"] * (len(_NAMES) + 1)]),
    ]
    for row in rows:
        scores = ["missing" if score is None else f"{score:.2f}" for score in row.scores.values()]
        lines.append(_line([row.model, row.source, *scores, "" if row.average is None else f"{row.average:.2f}"]))
    return "\n".join(lines)


def _tasks_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        _line(["Task", "Shots", "Documents", "Metric", "Raw", "Standard error", "Normalised"]),
        _line(["---", "---:", "---:", "---", "---:", "---:", "---:"]),
    ]
    for task in _in_order(results):
        result = results[task]
        for column, score in _task_scores(task, result).items():
            metric = next(known.metric for known in COLUMNS if known.name == column)
            name, kind = metric.split(",")
            error = result["metrics"].get(f"{name}_stderr,{kind}")
            lines.append(
                _line(
                    [task, str(result["shots"]), str(result["documents"]), name, f"{result['metrics'][metric]:.4f}",
                     "" if error is None else f"{error:.4f}", f"{score:.2f}"]
                )
            )  # fmt: skip
    return "\n".join(lines)


def _task_scores(task: str, result: Mapping[str, Any]) -> dict[str, float]:
    """One task's score alone, by the columns that it counts in."""
    return {
        column.name: normalised(float(result["metrics"][column.metric]), column.choices[task])
        for column in COLUMNS
        if task in column.choices
    }


def _in_order(results: Mapping[str, Any]) -> list[str]:
    return [task for task in TASKS if task in results]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

"""Our figures beside the paper's, which are marked as reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.disk import write_whole
from sparsepo_dist.evaluation.code.tasks import BENCHMARKS, KS, PAPER, REPORTED

_COLUMNS = [(task, f"pass@{k}") for task in BENCHMARKS for k in KS]


class _Row(NamedTuple):
    model: str
    source: str
    scores: list[float | None]
    """Percent, by column; None was not measured."""


def write_table(output: Path, name: str, results: Mapping[str, Mapping[str, Any]], how: str) -> str:
    """Write code.md and code.json, in percent; the Markdown.

    Args:
        name: of the model.
        results: by task, as `summarise` gives them.
        how: the settings in words.
    """
    ours = [(100 * results[task][key]) if key in results.get(task, {}) else None for task, key in _COLUMNS]
    rows = [_Row(name, "measured", ours)]
    rows += [_Row(method, f"reported in {PAPER}", list(scores)) for method, scores in REPORTED.items()]
    notes = [how, *_notes(results)]
    heads = [f"{BENCHMARKS[task].title} {key}" for task, key in _COLUMNS]
    listed = [{"model": row.model, "source": row.source, **dict(zip(heads, row.scores, strict=True))} for row in rows]
    write_whole(output / "code.json", json.dumps({"unit": "percent", "rows": listed, "notes": notes}, indent=2) + "\n")
    lines = ["| model | source | " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * len(heads)]
    for row in rows:
        cells = ["" if score is None else f"{score:.2f}" for score in row.scores]
        lines.append(f"| {row.model} | {row.source} | " + " | ".join(cells) + " |")
    text = "\n".join([*lines, "", "Percent.", *(f"- {note}" for note in notes)]) + "\n"
    write_whole(output / "code.md", text)
    return text


def _notes(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = []
    for task, result in results.items():
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in result["outcomes"].items())
        notes.append(f"{BENCHMARKS[task].title}: {result['problems']} problems; of the programs, {outcomes}.")
        if result["left_out"]:
            few = result["samples_per_problem"]
            notes.append(
                f"{BENCHMARKS[task].title}: {' and '.join(result['left_out'])} left out, there being {few} "
                f"sample{'s' if few > 1 else ''} a problem."
            )
    return notes

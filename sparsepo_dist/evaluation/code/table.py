"""Our figures beside the paper's, which are marked as reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.disk import write_whole
from sparsepo_dist.evaluation.code.tasks import BENCHMARKS, KS, OWN, PAPER, PLUS, REPORTED, title


class _Row(NamedTuple):
    model: str
    source: str
    scores: Mapping[tuple[str, int], float]
    """Percent, by task and k; what is missing was not measured."""


def write_table(
    output: Path, name: str, results: Mapping[str, Mapping[str, Any]], how: str, ks: Sequence[int] = KS
) -> str:
    """Write code.md and code.json, in percent; the Markdown.

    Args:
        name: of the model.
        results: by task, as `scored` gives them.
        how: the settings in words.
        ks: of pass@k; the paper has 1, 10 and 100.
    """
    own = OWN in results
    tasks = [OWN] if own else [*BENCHMARKS, *(task for task in PLUS if task in results)]
    columns = [(task, k) for task in tasks for k in ks]
    ours = {(task, k): 100 * results[task][f"pass@{k}"] for task, k in columns if f"pass@{k}" in results.get(task, {})}
    rows = [_Row(name, "measured", ours)]
    places = [(task, k) for task in BENCHMARKS for k in KS]
    if not own:  # the paper has other problems
        rows += [
            _Row(method, f"reported in {PAPER}", dict(zip(places, scores, strict=True)))
            for method, scores in REPORTED.items()
        ]
    notes = [how, *_notes(results)]
    heads = {column: f"{title(column[0])} pass@{column[1]}" for column in columns}
    listed = [
        {"model": row.model, "source": row.source, **{head: row.scores.get(column) for column, head in heads.items()}}
        for row in rows
    ]
    write_whole(output / "code.json", json.dumps({"unit": "percent", "rows": listed, "notes": notes}, indent=2) + "\n")
    lines = ["| model | source | " + " | ".join(heads.values()) + " |", "| --- | --- |" + " ---: |" * len(heads)]
    for row in rows:
        cells = [f"{row.scores[column]:.2f}" if column in row.scores else "" for column in columns]
        lines.append(f"| {row.model} | {row.source} | " + " | ".join(cells) + " |")
    text = "\n".join([*lines, "", "Percent.", *(f"- {note}" for note in notes)]) + "\n"
    write_whole(output / "code.md", text)
    return text


def _notes(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = []
    for task, result in results.items():
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in result["outcomes"].items())
        notes.append(f"{title(task)}: {result['problems']} problems; of the programs, {outcomes}.")
        if result["left_out"]:
            few = min(result["samples"])
            notes.append(
                f"{title(task)}: {' and '.join(result['left_out'])} left out, there being {few} "
                f"sample{'s' if few > 1 else ''} a problem."
            )
    return notes

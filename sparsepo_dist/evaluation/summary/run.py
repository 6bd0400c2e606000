"""Sample summaries, measure them, write one table; what is finished is not done again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsepo_dist.disk import write_whole
from sparsepo_dist.evaluation.models import results_folder
from sparsepo_dist.evaluation.prompts import digest
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.sampling import Sampling
from sparsepo_dist.evaluation.summary.lengths import tokens
from sparsepo_dist.evaluation.summary.metrics import COLUMNS, Metric, Task
from sparsepo_dist.evaluation.tables import Column, csv_table, markdown_table
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.sampling.backends import load_sampler


def summarise(
    targets: Sequence[Target],
    tasks: Sequence[Task],
    temperatures: Sequence[float],
    sampling: Sampling,
    metrics: Sequence[Metric],
    missing: dict[str, str],
    output: Path,
    notes: Sequence[str] = (),
) -> Path:
    """summary.json, summary.csv and summary.md in `output`, a row for each model and temperature; the Markdown file.

    Args:
        missing: why a column has no numbers, by its name.
        notes: what else is to be said below the table.

    Raises:
        UserError: a model cannot be loaded, or `output` holds results of other settings.
        RunError: vLLM fails.
    """
    packages = [sampling.backend, *(package for metric in metrics for package in metric.packages)]
    prompts = [task.prompt for task in tasks]
    settings = sampling.settings(prompts)
    kept = {one: Results(output / "models" / results_folder(one), one, settings, packages=packages) for one in targets}
    for one in targets:
        _sample(one, kept[one], prompts, temperatures, sampling)
    rows = [_row(one, temperature, kept[one], tasks, metrics) for one in targets for temperature in temperatures]
    references = digest([task.summary for task in tasks])
    return _write(output, rows, {**settings, "references": references}, missing, notes)


def _sample(
    one: Target, kept: Results, prompts: Sequence[str], temperatures: Sequence[float], sampling: Sampling
) -> None:
    sampler = None
    for temperature in temperatures:
        if kept.finished(f"samples-{temperature:g}") is not None:
            continue
        sampler = sampler or load_sampler(sampling.backend, one.model, one.adapter)
        drawn = sampling.draw(sampler, prompts, temperature, f"{one.name} at {temperature:g}")
        texts = [s.response.strip() for s in drawn]
        by_prompt = [texts[start : start + sampling.samples] for start in range(0, len(texts), sampling.samples)]
        kept.write(f"samples-{temperature:g}", by_prompt)


def _row(
    one: Target, temperature: float, kept: Results, tasks: Sequence[Task], metrics: Sequence[Metric]
) -> dict[str, Any]:
    samples = kept.finished(f"samples-{temperature:g}")
    assert samples is not None
    references = digest([task.summary for task in tasks])
    scores = {}
    for metric in (*metrics, tokens(one)):
        name = f"{metric.measurement}-{references}-{temperature:g}"
        found = kept.finished(name)
        if found is None:
            found = metric.compute(tasks, samples)
            kept.write(name, found)
        scores[metric.name] = found
    return {
        "model": one.name,
        "temperature": temperature,
        **{name: float(np.mean(values)) for name, values in scores.items()},
        "per_prompt": scores,
    }


def _write(
    output: Path, rows: list[dict[str, Any]], settings: dict[str, Any], missing: dict[str, str], more: Sequence[str]
) -> Path:
    columns = [Column("model", "Model"), Column("temperature", "Temperature", "g")]
    columns += [Column(name, title, ".2f") for name, title in COLUMNS.items()]
    record = {"settings": settings, "missing": missing, "notes": list(more), "rows": rows}
    write_whole(output / "summary.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_whole(output / "summary.csv", csv_table(columns, rows))
    notes = [f"{settings['prompt_count']} prompts x {settings['samples']} samples, top-p {settings['top_p']:g}. All "]
    notes[0] += "scores from 0 to 100, means over prompts, as are words and tokens (of the model's own tokenizer) of a "
    notes[0] += "sample; a low self-BLEU is diverse."
    notes += [f"{COLUMNS[name]} is missing: {reason}." for name, reason in missing.items()]
    notes += more
    write_whole(output / "summary.md", markdown_table(columns, rows) + "".join(f"\n{note}\n" for note in notes))
    return output / "summary.md"

"""preference.json, .csv and .md: a row for each model, one Markdown table for each way of measuring."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsepo_dist.disk import write_whole
from sparsepo_dist.evaluation.preference.length_control import PRIOR
from sparsepo_dist.evaluation.preference.numbers import Row
from sparsepo_dist.evaluation.preference.resampling import RESAMPLES
from sparsepo_dist.evaluation.tables import Column, csv_table, markdown_table

NAME = "preference"
_MODEL = (Column("model", "Model"), Column("method", "Method"), Column("step", "Step"))
_SHARE, _NUMBER = ".3f", ".4f"


def write_preference_tables(
    rows: Sequence[Row], settings: Mapping[str, Any], missing: Mapping[str, str], output: Path
) -> Path:  # fmt: skip
    """The three files in `output`; the Markdown file.

    Args:
        settings: what decides the numbers, and what is said of it: `against`, `reference`, `scorer`, `judge`, `beta`.
        missing: why a way of measuring has no numbers, by its name.
    """
    record = {"settings": dict(settings), "missing": dict(missing), "rows": list(rows)}
    write_whole(output / f"{NAME}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    keys = list(dict.fromkeys(key for row in rows for key in row if not key.endswith("missing")))
    write_whole(output / f"{NAME}.csv", csv_table([Column(key, key) for key in keys], rows))
    write_whole(output / f"{NAME}.md", _markdown(rows, settings, missing))
    return output / f"{NAME}.md"


def _markdown(rows: Sequence[Row], settings: Mapping[str, Any], missing: Mapping[str, str]) -> str:
    parts = []
    if any("accuracy" in row for row in rows):
        parts.append(_of_pairs(rows, settings))
    if any("win_rate" in row for row in rows):
        parts.append(
            _of_wins(rows, "", f"Win rate against {settings['against']}", f"The reward is {settings['scorer']}.")
        )
    if any("judge_comparisons" in row for row in rows):
        said = f"The judge is {settings['judge']}. Comparisons with an answer that holds no verdict are left out."
        parts.append(_of_wins(rows, "judge_", f"Win rate against {settings['against']} by a judge", said))
    parts += [f"{name} are missing: {reason}.\n" for name, reason in missing.items()]
    return "\n".join(parts)


def _of_pairs(rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
    columns = [*_MODEL, Column("pairs", "Pairs")]
    for prefix, title in (("", ""), ("length_normalised_", ", per token"), ("own_", ", own reward")):
        columns += [
            Column(f"{prefix}accuracy", f"Accuracy{title}", _SHARE), Column(f"{prefix}accuracy_low", "from", _SHARE),
            Column(f"{prefix}accuracy_high", "to", _SHARE), Column(f"{prefix}ties", "Ties"),
            Column(f"{prefix}margin", f"Margin{title}", _NUMBER), Column(f"{prefix}margin_low", "from", _NUMBER),
            Column(f"{prefix}margin_high", "to", _NUMBER),
        ]  # fmt: skip
    reasons = [f"{row['model']} has no own reward: {row['own_missing']}." for row in rows if row.get("own_missing")]
    notes = [
        f"The reward of a response is {settings['beta']:g} times the sum over its tokens of the log-ratio to "
        f"{settings['reference']}, without masks, for every method; per token, divided by their number; the own reward "
        "is that of the model's run: its beta, its masks and its divergence term, as its held-out metric has it. All "
        "in float32. A tie is not right. 95 % intervals: Wilson's where each prompt has one pair, else, and for "
        f"margins, by a bootstrap over prompts ({RESAMPLES} resamples).",
        *reasons,
    ]
    return f"## Held-out pairs\n\n{markdown_table(columns, rows)}\n" + "\n".join(f"{note}\n" for note in notes)


def _of_wins(rows: Sequence[Row], prefix: str, title: str, said: str) -> str:
    columns = [
        *_MODEL, Column(f"{prefix}comparisons", "Comparisons"),
        Column(f"{prefix}win_rate", "Win rate", _SHARE), Column(f"{prefix}win_rate_low", "from", _SHARE),
        Column(f"{prefix}win_rate_high", "to", _SHARE), Column(f"{prefix}win_ties", "Ties"),
        Column(f"{prefix}lc_win_rate", "At equal lengths", _SHARE), Column(f"{prefix}lc_win_rate_low", "from", _SHARE),
        Column(f"{prefix}lc_win_rate_high", "to", _SHARE), Column(f"{prefix}characters", "Characters", ".1f"),
        Column(f"{prefix}characters_against", "of the others", ".1f"),
    ]  # fmt: skip
    if prefix:
        columns += [Column("judge_invalid", "Answers without a verdict"), Column("judge_swayed", "Swayed by the order")]
    notes = [
        f"{said} A tie is half a win; 95 % intervals by a bootstrap over prompts ({RESAMPLES} resamples). At equal "
        "lengths: sigmoid(theta) of sigmoid(theta + phi tanh(d / std(d))) fitted to the preferences, d the difference "
        "in characters (arXiv 2404.04475 without its term of the instructions' difficulty and without AlpacaEval's own "
        f"answers; normal priors of deviations {PRIOR[0]:g} and {PRIOR[1]:g} in place of its penalty).",
        *(f"{row['model']} has no win rate at equal lengths: {row[key]}." for row in rows
          if (key := f"{prefix}lc_missing") in row),
    ]  # fmt: skip
    return f"## {title}\n\n{markdown_table(columns, rows)}\n" + "\n".join(f"{note}\n" for note in notes)

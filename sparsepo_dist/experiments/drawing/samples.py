"""Figures 1, 4 and 9: the same held-out responses under several runs, reward and KL after the mask, token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sparsepo_dist.experiments.contracts import TrainedRun
from sparsepo_dist.experiments.drawing.numbers.grouping import over_beta, variants
from sparsepo_dist.experiments.drawing.numbers.reading import Collected
from sparsepo_dist.experiments.drawing.parts import Section, anchor
from sparsepo_dist.report.heatmap import readable, token_span

_TITLE = "Figures 1, 4 and 9: the same responses under several runs"
_QUANTITIES = ("Reward after the mask", "KL after the mask")
_LEGEND = (
    "The greener, the larger within its line: each line is scaled to [0, 1] from its least to its largest token. "
    "Dotted underline: exactly 0 before scaling. Hover a token for its number."
)
Key = tuple[str, str, tuple[str, ...]]
"""Prompt, branch and tokens of a response."""


def samples(collected: Collected, folder: Path) -> Section:
    """Each response of which all runs have the tokens, once for each run and quantity."""
    runs = _runs(collected)
    rows = {run.name: _responses(collected, run) for run in runs}
    without = [name for name, found in rows.items() if not found]
    runs = [run for run in runs if rows[run.name]]
    if not runs:
        return Section(_TITLE, notes=("Nothing to show: no run has tokens.jsonl.",))
    shared = [key for key in rows[runs[0].name] if all(key in rows[run.name] for run in runs)]
    notes = [_LEGEND]
    if without:
        notes.append(f"Without tokens.jsonl, as of objectives without a reference: {', '.join(without)}.")
    if not shared:
        notes.append("No response is the same in all runs: they were trained with other held-out pairs or tokenizers.")
    parts = []
    for prompt in dict.fromkeys(prompt for prompt, _, _ in shared):
        parts.append(f'<h3>Held-out pair</h3><p class="prompt"><b>Prompt</b> {readable(prompt)}</p>')
        parts += [_response(key, runs, rows) for key in shared if key[0] == prompt]
    return Section(_TITLE, (), tuple(notes), f'<div class="tokens-of-runs">{"".join(parts)}</div>')


def _runs(collected: Collected) -> list[TrainedRun]:
    """One of each method: the one that its grid was won by, else the first seed of its middle beta."""
    gridded, _ = over_beta(variants(collected.trained))
    found = []
    for method in dict.fromkeys(variant.method for variant in gridded):
        own = [variant for variant in gridded if variant.method == method]
        won = collected.experiment.selected.get(method)
        middle = own[(len(own) - 1) // 2].runs[0]
        found.append(next((run for run in collected.runs if run.name == won), middle))
    return found


def _responses(collected: Collected, run: TrainedRun) -> dict[Key, dict[str, Any]]:
    files = collected.files(run)
    rows = [] if files is None else files.tokens
    return {(row["prompt"], row["branch"], tuple(row["tokens"])): row for row in rows}


def _response(key: Key, runs: Sequence[TrainedRun], rows: Mapping[str, Mapping[Key, dict[str, Any]]]) -> str:
    parts = [f"<h4>{escape(key[1].capitalize())}</h4>"]
    for place, quantity in enumerate(_QUANTITIES):
        lines = []
        for run in runs:
            values = _after_the_mask(rows[run.name][key])[place]
            tokens = (
                "<small>none: the objective has no divergence</small>" if values is None else _spans(key[2], values)
            )
            name = f'<a href="#{anchor(run.name)}">{escape(run.name)}</a>'
            lines.append(f'<tr><th>{name}</th><td class="tokens">{tokens}</td></tr>')
        parts.append(f"<p><small>{quantity}</small></p><table>{''.join(lines)}</table>")
    return "".join(parts)


def _after_the_mask(row: Mapping[str, Any]) -> tuple[list[float] | None, list[float] | None]:
    """beta m_u rho, which is what tokens.jsonl calls reward, and m_d KL; None where there is none."""
    kl = row.get("kl")
    masked = None if kl is None else [m * k for m, k in zip(row["divergence_mask"], kl, strict=True)]
    return row.get("reward"), masked


def _spans(tokens: Sequence[str], values: Sequence[float]) -> str:
    return "".join(
        token_span(token, scaled, 1.0, signed=False, number=value)
        for token, scaled, value in zip(tokens, to_unit(values), values, strict=True)
    )


def to_unit(values: Sequence[float]) -> list[float]:
    """Numbers to [0, 1], the least to 0 and the largest to 1; all 0 where they are equal; what is not finite is NaN."""
    finite = [value for value in values if math.isfinite(value)]
    low = min(finite, default=0.0)
    room = max(finite, default=0.0) - low or 1.0
    return [(value - low) / room if math.isfinite(value) else math.nan for value in values]

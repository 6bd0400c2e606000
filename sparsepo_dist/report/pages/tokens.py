"""Heat maps of the page: the same response under several runs, found by its prompt and its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sparsepo_dist.report.heatmap import ROWS
from sparsepo_dist.report.pages.shown import ShownRun


def quantities() -> list[dict[str, Any]]:
    """What tokens can be coloured by."""
    return [{"name": name, "title": title, "unit": unit, "signed": signed} for name, title, unit, signed in ROWS]


def pairs(runs: Sequence[ShownRun]) -> list[dict[str, Any]]:
    """Pairs of the runs' tokens.jsonl, each with its responses, each with the numbers of every run that has it.

    Responses are the same where prompt, branch and tokens are: runs with other tokenisers or other held-out data stand
    in pairs of their own.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, run in enumerate(runs):
        for group in _grouped(run.files.tokens):
            prompt = group[0]["prompt"]
            key = (prompt, *((row["branch"], tuple(row["tokens"])) for row in group))
            pair = found.setdefault(key, {"prompt": prompt, "responses": [_response(row) for row in group]})
            for response, row in zip(pair["responses"], group, strict=True):
                values = {name: _plain(row[name]) for name, *_ in ROWS if name in row}
                response["runs"].append({"run": number, "values": values})
    return list(found.values())


def _grouped(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["pair"], []).append(row)
    return list(groups.values())


def _response(row: dict[str, Any]) -> dict[str, Any]:
    return {"branch": row["branch"].capitalize(), "tokens": row["tokens"], "runs": []}


def _plain(values: Sequence[float]) -> list[float | None]:
    """JSON has no numbers that are none."""
    return [value if math.isfinite(value) else None for value in values]

"""What a job has to show: the rows that its driver's own table ends with, whatever else it kept beside them.

Reads files alone: a table of them takes no second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.jobs.store import EvaluationJob
from sparsepo_dist.files import read_json

FRONTIER = "frontier.json"


class Final(NamedTuple):
    """A job's numbers."""

    numbers: dict[str, float]
    """By column, without the suite."""
    note: str | None = None
    """What is to be known of them: how much was measured."""


def final(job: EvaluationJob) -> Final:
    """The final rows of a job that is done; those of a driver of your own are all numbers of its results.

    Raises:
        UserError: a result cannot be read.
    """
    return final_of(job.driver, job.results)


def final_of(driver: str, results: Path) -> Final:
    """As `final`, of what a driver (the name of its script) wrote. Raises UserError as there."""
    name, read = _DRIVERS.get(driver, ("", None))
    file = results / name
    if read is None or not file.is_file():
        return Final(dict(_of_results(results)))
    try:
        found = read(read_json(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"the result {file} cannot be read: {error!r}") from None
    return Final({name: float(value) for name, value in found.numbers.items() if _is_number(value)}, found.note)


def _leaderboard(table: Mapping[str, Any]) -> Final:
    row = table["rows"][0]
    partial = None if row["source"] == "measured" else str(row["source"])
    others = table.get("other_tasks", {})
    in_groups = {task for other in others.values() if other["metrics"] for task in other.get("tasks", ())}
    raw = {
        f"{name} {metric}": value
        for name, other in others.items()
        for metric, value in other["metrics"].items()
        if name not in in_groups and "_stderr," not in metric
    }
    return Final({**row["scores"], "average": row["average"], **raw}, partial)


def _code(table: Mapping[str, Any]) -> Final:
    row = table["rows"][0]
    return Final({name: value for name, value in row.items() if name not in ("model", "source")})


def _summary(table: Mapping[str, Any]) -> Final:
    kept = ("model", "temperature", "per_prompt")
    return Final(
        {
            f"temperature {row['temperature']:g}/{name}": value
            for row in table["rows"]
            for name, value in row.items()
            if name not in kept
        }
    )


def _frontier(table: Mapping[str, Any]) -> Final:
    (row,) = table["rows"]
    kept = ("method", "model", "path", "on_frontier", "settings")
    numbers = {name: value for name, value in row.items() if name not in kept}
    return Final(numbers, f"the reward is {table['scorer']}")


def _preference(table: Mapping[str, Any]) -> Final:
    (row,) = table["rows"]
    said = [f"{name} is {table['settings'][name]}" for name in ("scorer", "judge") if table["settings"][name]]
    return Final({name: value for name, value in row.items() if name != "step"}, "; ".join(said) or None)


_DRIVERS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Final]]] = {
    "leaderboard.py": ("leaderboard.json", _leaderboard),
    "code.py": ("code.json", _code),
    "summary.py": ("summary.json", _summary),
    "frontier.py": (FRONTIER, _frontier),
    "preference.py": ("preference.json", _preference),
}


def _of_results(results: Path) -> Iterator[tuple[str, float]]:
    """Every number of the results that `evaluation.results` wrote; other files are the driver's own."""
    for file in sorted(results.rglob("*.json")):
        try:
            record = read_json(file)
        except (OSError, ValueError) as error:
            raise UserError(f"the result {file} cannot be read: {error}") from None
        if isinstance(record, dict) and "task" in record and "result" in record:
            yield from _numbers(record["result"], str(record["task"]))


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}/{key}")
    elif _is_number(value):
        yield name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

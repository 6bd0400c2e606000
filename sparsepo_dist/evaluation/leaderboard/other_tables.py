"""The table of lm-eval's tasks besides the leaderboard's: metrics as lm-eval has them, and how each was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sparsepo_dist.evaluation.tables import Column, markdown_table

_COLUMNS = (
    Column("task", "Task"), Column("shots", "Shots"), Column("prompts", "Prompts"), Column("documents", "Documents"),
    Column("metric", "Metric"), Column("filter", "Filter"), Column("value", "Value", ".4f"),
    Column("error", "Standard error", ".4f"),
)  # fmt: skip


def other_tasks(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What leaderboard.json holds of them, groups first: results with the settings that they were measured with."""
    found = {name: {**record["result"], "settings": record["settings"]} for name, record in records.items()}
    return dict(sorted(found.items(), key=lambda each: ("tasks" not in each[1], each[0])))


def other_section(others: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown, with what system instructions were given."""
    told = {record["settings"].get("system_instruction") for record in others.values()} - {None}
    notes = [f"System instruction: {text!r}." for text in sorted(map(str, told))]
    return "\n\n".join([markdown_table(_COLUMNS, list(_rows(others))).rstrip(), *notes])


def _rows(others: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for name, record in others.items():
        for key, value in record["metrics"].items():
            metric, _, kind = key.partition(",")
            if metric.endswith("_stderr"):
                continue
            yield {
                "task": name, "shots": _shots(record), "prompts": _prompts(record["settings"]),
                "documents": _documents(record, others), "metric": metric, "filter": kind, "value": value,
                "error": record["metrics"].get(f"{metric}_stderr,{kind}"),
            }  # fmt: skip


def _shots(record: Mapping[str, Any]) -> str | None:
    if "shots" not in record:
        return None
    own = record["own_shots"]
    return str(own) if own == record["shots"] else f"{record['shots']} (its own: {own})"


def _prompts(settings: Mapping[str, Any]) -> str:
    form = "chat" if settings["chat_template"] else "text"
    return f"{form}, system instruction" if "system_instruction" in settings else form


def _documents(record: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [others[task] for task in record["tasks"]] if "tasks" in record else [record]
    measured, there = (sum(part[key] for part in parts) for key in ("documents", "all_documents"))
    return str(measured) if measured == there else f"{measured} of {there}"

"""One page of a part, for people: what was asked, what was found, and at its end what failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMED = ("date", "torch", "cuda", "python", "threads", "commit")


def as_page(found: Mapping[str, Any]) -> str:
    """Markdown of a part's JSON; its last lines name what failed, or say that nothing did."""
    rehearsed = ", a rehearsal on a CPU: no figure is a GPU's" if found["rehearsed"] else ""
    lines = [
        f"# GPU day, {found['part']}: {found['device']}{rehearsed}", "",
        ", ".join(f"{name} {found[name]}" for name in _NAMED if found.get(name)),
        "", "| check | | seconds |", "| --- | --- | --- |",
        *(f"| {check['name']} | {check['word']} | {check['seconds']:.0f} |" for check in found["checks"]),
    ]  # fmt: skip
    for check in found["checks"]:
        if check["facts"]:
            lines += ["", f"## {check['name']}", "", *_facts(check["facts"])]
    lines += ["", "## Left out", "", *_reasons(found, "left out", "nothing")]
    lines += ["", "## Failed", "", *_reasons(found, "failed", "nothing")]
    return "\n".join(lines) + "\n"


def _reasons(found: Mapping[str, Any], word: str, none: str) -> list[str]:
    told = [f"- **{check['name']}**: {_indented(check['why'])}" for check in found["checks"] if check["word"] == word]
    return told or [none]


def _indented(text: str) -> str:
    first, *rest = text.strip().splitlines() or [""]
    return "\n".join([first, *(f"      {line}" for line in rest)])


def _facts(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            columns = list(value[0])
            lines += ["", f"{name}:", "", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
            lines += [f"| {' | '.join(_shown(row.get(column)) for column in columns)} |" for row in value] + [""]
        else:
            lines.append(f"- {name}: {_indented(_shown(value))}")
    return lines


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""The data card: where a prepared folder comes from, what was left out of it and why, and what it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sparsepo_dist.data.reading.folders import CARD, PREPARED

MARKDOWN = "card.md"
__all__ = ["CARD", "MARKDOWN", "Card", "Step", "WrittenFile"]


class Step(NamedTuple):
    """A filter or choice, in the order in which they were done."""

    said: str
    before: int
    after: int
    unit: str


class WrittenFile(NamedTuple):
    """A file of the folder."""

    name: str
    said: str
    """What its rows are."""
    rows: int
    sha256: str


@dataclass
class Card:
    """What card.json and card.md say."""

    name: str
    settings: Mapping[str, Any]
    sources: Mapping[str, Any]
    origin: Mapping[str, Any]
    """Command, date, versions."""
    steps: list[Step] = field(default_factory=list)
    counts: dict[str, int | float] = field(default_factory=dict)
    files: list[WrittenFile] = field(default_factory=list)

    def step(self, said: str, before: int, after: int, *, unit: str = "rows") -> None:
        """Note that of `before` things `after` were kept, as `said` ("texts of at least 8 tokens")."""
        self.steps.append(Step(said, before, after, unit))

    def count(self, said: str, number: float) -> None:
        """Note any other number."""
        self.counts[said] = number

    def identity(self) -> dict[str, Any]:
        """All that decides the files, as JSON gives it back."""
        decided = {PREPARED: self.name, "settings": self.settings, "sources": self.sources}
        return dict(json.loads(json.dumps(decided)))

    def as_json(self) -> str:
        """The text of card.json."""
        content = {
            **self.identity(), "steps": [step._asdict() for step in self.steps], "counts": self.counts,
            "files": [file._asdict() for file in self.files], **self.origin,
        }  # fmt: skip
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def as_markdown(self) -> str:
        """The text of card.md."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"# Prepared data: {self.name}\n"
        yield f"`{self.origin['command']}`, {self.origin['date']}\n"
        yield from ("## Files\n", "| file | rows | what | SHA-256 |", "| --- | --- | --- | --- |")
        for file in self.files:
            yield f"| {file.name} | {file.rows:,} | {file.said} | {file.sha256} |"
        if self.steps:
            yield from ("\n## What was kept\n", "| | before | after | left out |", "| --- | --- | --- | --- |")
        for step in self.steps:
            yield f"| {step.said} | {step.before:,} {step.unit} | {step.after:,} | {step.before - step.after:,} |"
        if self.counts:
            yield from ("\n## Counts\n", "| | |", "| --- | --- |")
        for said, number in self.counts.items():
            yield f"| {said} | {number:,} |" if isinstance(number, int) else f"| {said} | {number:.4f} |"
        yield from ("\n## Settings and sources\n", "| | |", "| --- | --- |")
        for name, value in {**self.settings, **self.sources, **self.origin["versions"]}.items():
            yield f"| {name} | {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)} |"

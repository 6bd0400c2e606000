"""A page taken apart, as a browser takes it apart."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


@dataclass
class Page(HTMLParser):
    """Elements with their attributes, what stands in scripts and styles, and all other text."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    raw: dict[str, list[str]] = field(default_factory=lambda: {"script": [], "style": []})
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._within: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in self.raw:
            self.raw[tag].append("")
            self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = None

    def handle_data(self, data: str) -> None:
        if self._within:
            self.raw[self._within][-1] += data
        else:
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        """What the scripts draw."""
        return dict(json.loads(self.raw["script"][0]))


def read_page(path: Path) -> Page:
    """Of a file."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page

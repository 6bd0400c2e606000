"""Results of the evaluation drivers on the page: their Markdown tables and their figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from sparsepo_dist.errors import UserError
from sparsepo_dist.files import read_text
from sparsepo_dist.report.page import image

_CELL = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"\|( *:?-+:? *\|)+ *")
_MOST_FIGURE_BYTES = 16 * 2**20


def is_results(folder: Path) -> bool:
    """Whether a folder holds tables of evaluation drivers."""
    return any(folder.glob("*.md"))


def results(name: str, folder: Path) -> str:
    """A section with all tables and figures of a results folder.

    Raises:
        UserError: a file cannot be read, or a figure is none.
    """
    parts = [f"<h2>{escape(name)}</h2>"]
    for table in sorted(folder.glob("*.md")):
        parts.append(as_html(read_text(table, str(table))))
        figure = table.with_suffix(".png")
        if figure.is_file():
            parts.append(_image(figure))
    return "".join(parts)


def as_html(text: str) -> str:
    """What drivers write of Markdown: headings, tables, lists, paragraphs and bold words; everything else is text."""
    return "".join(_blocks(text.splitlines()))


def _blocks(lines: Sequence[str]) -> Iterator[str]:
    for kind, group in groupby(lines, key=_kind):
        block = list(group)
        if kind == "heading":
            yield from (f"<h3>{_inline(line.lstrip('# '))}</h3>" for line in block)
        elif kind == "table":
            yield _table(block)
        elif kind == "item":
            yield f"<ul>{''.join(f'<li>{_inline(line[2:])}</li>' for line in block)}</ul>"
        elif kind == "text":
            yield f'<p class="note">{_inline(" ".join(block))}</p>'


def _kind(line: str) -> str:
    if not line.strip():
        return "blank"
    return {"#": "heading", "|": "table", "-": "item"}.get(line[0], "text")


def _table(lines: Sequence[str]) -> str:
    rows = [[cell.strip().replace("\\|", "|") for cell in _CELL.split(line.strip())[1:-1]] for line in lines]
    ruled = len(lines) > 1 and _RULE.fullmatch(lines[1])
    right = [cell.endswith(":") for cell in rows[1]] if ruled else []
    head, body = (rows[:1], rows[2:]) if ruled else ([], rows)

    def row(cells: Sequence[str], tag: str) -> str:
        css = [' class="number"' if at < len(right) and right[at] else "" for at in range(len(cells))]
        return "".join(f"<{tag}{c}>{_inline(cell)}</{tag}>" for c, cell in zip(css, cells, strict=True))

    made = [*(row(cells, "th") for cells in head), *(row(cells, "td") for cells in body)]
    return f'<div class="wide"><table>{"".join(f"<tr>{one}</tr>" for one in made)}</table></div>'


def _inline(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))


def _image(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_FIGURE_BYTES:
            raise UserError(f"{path} is too large for a page: {path.stat().st_size:,} bytes")
        return f"<p>{image(path)}</p>"
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None

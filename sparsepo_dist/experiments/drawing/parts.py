"""What a table or a figure of the page consists of, and how tables are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from sparsepo_dist.disk import write_whole
from sparsepo_dist.evaluation.tables import MISSING, Column, markdown_table
from sparsepo_dist.experiments.drawing.numbers.intervals import Interval

RUNS = "runs"
"""Key of the names of the runs that a row was made of."""


@dataclass(frozen=True)
class Table:
    """Rows by column key; a row may also have RUNS."""

    name: str
    """Of its files."""
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure and what is to be known of it."""

    path: Path
    caption: str
    runs: tuple[str, ...]
    """Names of the runs that it was drawn from."""


@dataclass(frozen=True)
class Section:
    """One draw of the experiment."""

    title: str
    parts: tuple[Table | Picture, ...] = ()
    notes: tuple[str, ...] = ()
    html: str = ""
    """What is neither table nor picture."""


def write_table(table: Table, folder: Path) -> list[Path]:
    """NAME.md and NAME.json in `folder`; the JSON has each row's runs, and intervals as objects."""
    notes = "".join(f"\n{note}\n" for note in table.notes)
    text = f"# {table.title}\n\n{markdown_table(table.columns, table.rows)}{notes}"
    record = {
        "title": table.title,
        "columns": {column.key: column.title for column in table.columns},
        "rows": [{name: _plain(value) for name, value in row.items()} for row in table.rows],
        "notes": list(table.notes),
    }
    write_whole(folder / f"{table.name}.md", text)
    write_whole(folder / f"{table.name}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return [folder / f"{table.name}.md", folder / f"{table.name}.json"]


def _plain(value: Any) -> Any:
    return value._asdict() if isinstance(value, Interval) else value


def table_html(table: Table) -> str:
    """The table with its notes; behind each row, the runs that it was made of."""
    with_runs = any(row.get(RUNS) for row in table.rows)
    heads = [f"<th>{escape(column.title)}</th>" for column in table.columns] + ["<th>From</th>"] * with_runs
    lines = [f"<tr>{''.join(heads)}</tr>"]
    for row in table.rows:
        cells = [_cell(row.get(column.key), column.form) for column in table.columns]
        if with_runs:
            cells.append(f"<td>{links(row.get(RUNS, ()))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    notes = "".join(f"<p><small>{escape(note)}</small></p>" for note in table.notes)
    return f'<h3>{escape(table.title)}</h3><div class="wide"><table>{"".join(lines)}</table></div>{notes}'


def _cell(value: Any, form: str) -> str:
    if isinstance(value, Interval):
        known = f" title='n = {value.n} {value.over}'" if value.low is not None else ""
        bounds = escape(value.bounds(form).strip())
        return f"<td{known}>{value.mean:{form}}{f'<br><small>{bounds}</small>' if bounds else ''}</td>"
    return f"<td>{MISSING if value is None else escape(format(value, form))}</td>"


def links(names: Sequence[str]) -> str:
    """Links to where the page says how runs were made."""
    if not names:
        return ""
    inner = "<br>".join(f'<a href="#{anchor(name)}">{escape(name)}</a>' for name in names)
    return f"<details><summary>{len(names)}</summary>{inner}</details>"


def anchor(name: str) -> str:
    """Where the page says how a run was made."""
    return "run-" + escape(name, quote=True).replace(" ", "-")

"""One table as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MISSING = "—"


class Column(NamedTuple):
    """A column: the key of its values, its heading, and how numbers are shown in Markdown."""

    key: str
    title: str
    form: str = ""


def csv_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """Keys as headings, numbers in full; a missing value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.key for column in columns])
    writer.writerows([["" if (v := row.get(c.key)) is None else v for c in columns] for row in rows])
    return text.getvalue()


def markdown_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """Titles as headings; a missing value is a dash."""
    lines = [[column.title for column in columns], ["---" if c.form == "" else "---:" for c in columns]]
    lines += [[_shown(row.get(column.key), column.form) for column in columns] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _shown(value: Any, form: str) -> str:
    if value is None:
        return MISSING
    return format(value, form).replace("|", "\\|") if not isinstance(value, bool) else ("yes" if value else "no")

"""CSV and TSV: what a cell becomes, and what is said of rows and headers that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.data.reading import lines, separated
from sparsepo_dist.data.reading.row import NumberText
from sparsepo_dist.data.reading.sources import RowError, read_rows
from sparsepo_dist.errors import UserError


def table(path: Path, text: str | bytes, name: str = "rows.csv") -> list[Any]:
    """Rows, and the messages of those that are bad."""
    (path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return [str(row) if isinstance(row, RowError) else row.fields for row in read_rows(str(path / name))]


def test_cells(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "a, b"}
    cells = {
        "text": "x", "empty": None, "number": NumberText("1e-3"), "digits": NumberText("007"), "messages": [turn],
        "list": "[1, 2]", "objects": '[{"content": "no role"}]', "prose": "[{sic}] he said", "blank": " ",
    }  # fmt: skip
    written = [json.dumps(value) if isinstance(value, list) else value or "" for value in cells.values()]
    quoted = ['"' + text.replace('"', '""') + '"' for text in written]
    (row,) = table(tmp_path, f"{','.join(cells)}\r\n{','.join(quoted)}\r\n")
    assert row == cells
    assert [type(row[name]) for name in ("text", "number", "digits", "list")] == [str, NumberText, NumberText, str]


def test_no_text_becomes_another_by_itself(tmp_path: Path) -> None:
    """A response that is a number stays that text, zeros and all."""
    (row,) = table(tmp_path, "prompt,chosen\nHow many?,0042\n")
    assert row["chosen"] == "0042"


def test_blank_lines_are_no_rows_and_lines_are_counted(tmp_path: Path) -> None:
    rows = table(tmp_path, '\na,b\n\n"1\n2",x\n\ny\nz,w\n')
    assert rows[0] == {"a": "1\n2", "b": "x"} and rows[2] == {"a": "z", "b": "w"}
    assert "rows.csv, line 7: 1 cells, and the header has 2" in rows[1] and "in quotes" in rows[1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('"one "two"",x', r"line 2: not CSV: ',' expected after '\"'; text that holds quotes is quoted"),
        ("x,y,z", "line 2: 3 cells, and the header has 2"),
        (b"x,caf\xe9", "line 2: b is not UTF-8; convert the file"),
        ("\"[{'role': 'user', 'content': 'Hi'}]\",x", "line 2: a holds messages as Python prints them.*json.dumps"),
    ],
)
def test_a_bad_row_names_its_line_and_the_next_is_read(tmp_path: Path, line: str | bytes, reason: str) -> None:
    content = line if isinstance(line, bytes) else line.encode()
    bad, good = table(tmp_path, b"a,b\n" + content + b"\nc,d\n")
    assert good == {"a": "c", "b": "d"}
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bad)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,,c\n1,2,3\n", r"rows.csv: column 2 has no name in the header \(line 1\)"),
        ("a,b,a\n1,2,3\n", "rows.csv: the column 'a' stands twice; rename"),
        ('a,b\n1,2\n3,"4\n5,6\n', "rows.csv, line 3: a quote that is opened in this row is closed nowhere"),
        ("a;b\n1;2\n", r"rows.csv: the header is one cell, 'a;b': its separator seems to be ';', and is read as ','"),
        ("a\tb\n1\t2\n", r"rows.csv: the header is one cell, .* seems to be '\\t'"),
        ("a,b\n", "holds no rows"),
        ("", "holds no rows"),
        ("\ufeffa,b\n1,2\n".encode("utf-16"), r"rows.csv: not UTF-8 \(the header\)"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        table(tmp_path, text)


def test_tabs_separate_tsv(tmp_path: Path) -> None:
    assert table(tmp_path, 'a\tb\n1,2\t"x\ty"\n', "rows.tsv") == [{"a": "1,2", "b": "x\ty"}]


def test_a_line_without_an_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_BYTES", 100)
    monkeypatch.setattr(separated, "MOST_BYTES", 100)
    cells = ["x" * 60, "y" * 60]  # each of which may be
    bad, good = table(tmp_path, f"a,b\n{','.join(cells)}\nc,d\n")
    assert "line 2: longer than" in bad and good == {"a": "c", "b": "d"}

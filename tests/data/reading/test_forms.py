"""Every form of a source gives the same rows, whole, and the same pairs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.files import kind_of
from sparsepo_dist.data.reading.row import NumberText
from sparsepo_dist.data.reading.sources import Row, read_rows
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.errors import UserError
from tests.data.reading.forms import CHAT_ROWS, FORMS, TEXT_ROWS, Rows, configured, json_lines, shards
from tests.support.tiny import tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def fields(source: str) -> list[Any]:
    """The rows of a source, of which none is bad; numbers of tables without types are read."""
    rows = list(read_rows(source))
    assert all(isinstance(row, Row) for row in rows)
    return [
        {name: float(value) if isinstance(value, NumberText) else value for name, value in row.fields.items()}
        for row in rows
    ]


def places(source: str) -> list[str]:
    return [re.sub(r".*/", "", row.place) for row in read_rows(source) if isinstance(row, Row)]


@pytest.mark.parametrize("rows", [TEXT_ROWS, CHAT_ROWS], ids=["text", "messages"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_rows_that_were_written(tmp_path: Path, form: str, rows: Rows) -> None:
    assert fields(FORMS[form](tmp_path, rows)) == rows


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pairs(tmp_path: Path, form: str) -> None:
    config, tokenizer = DataConfig(chat_template=str(tmp_path / "chat.jinja")), tiny_tokenizer()
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    for name, rows in (("text", TEXT_ROWS), ("chat", CHAT_ROWS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plain.jsonl").write_bytes(json_lines(rows))
        want = list(load_tokenized(str(tmp_path / name / "plain.jsonl"), tokenizer, config))
        (tmp_path / name / "plain.jsonl").unlink()
        pairs = list(load_tokenized(FORMS[form](tmp_path / name, rows), tokenizer, config))
        assert pairs == want and len(pairs) == len(rows)
        assert [pair.scores for pair in pairs] == [pair.scores for pair in want]


def test_a_place_is_where_a_person_finds_the_row(tmp_path: Path) -> None:
    rows = TEXT_ROWS[:3]  # of two lines each as CSV
    assert places(FORMS["rows.jsonl.gz"](tmp_path, rows))[1] == "rows.jsonl.gz, row 2"
    assert places(FORMS["rows.csv"](tmp_path, rows)) == ["rows.csv, line 2", "rows.csv, line 5", "rows.csv, line 8"]
    assert places(FORMS["rows.arrow"](tmp_path, rows))[2] == "rows.arrow, row 3"
    assert places(FORMS["shards"](tmp_path, rows)) == [
        "part-0.jsonl.gz, row 1", "part-0.jsonl.gz, row 2", "part-1.jsonl.gz, row 1",
    ]  # fmt: skip
    assert places(f"{configured(tmp_path, rows)}:good:train[2:]") == ["hub:good:train[2:], row 1"]


@pytest.mark.parametrize(
    ("cut", "want"),
    [
        ("[:2]", range(2)), ("[2:4]", range(2, 4)), ("[5:]", range(5, 7)), ("[:]", range(7)), ("[:400]", range(7)),
        ("[-2:]", range(5, 7)), ("[:-5]", range(2)), ("[50%:]", range(4, 7)), ("[10%:30%]", range(1, 2)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["rows.jsonl", "rows.csv", "rows.Parquet", "shards", "glob", "save_to_disk", "clone"])
def test_a_slice_is_what_datasets_takes_it_for(tmp_path: Path, form: str, cut: str, want: range) -> None:
    """A clone is cut by `datasets` itself, everything else here."""
    assert fields(FORMS[form](tmp_path, TEXT_ROWS) + cut) == [TEXT_ROWS[number] for number in want]


def test_a_path_that_exists_is_not_read_as_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for number, name in enumerate(("a[:1].jsonl", "b.jsonl[:1]", "c:train.jsonl", "d[0].jsonl", "d0.jsonl", "e.jsonl")):
        Path(name).write_bytes(json_lines(TEXT_ROWS[number : number + 1] * 2))
    os.rename("b.jsonl[:1]", "b[:1]")  # noqa: PTH104
    assert [fields(name)[0] for name in ("a[:1].jsonl", "c:train.jsonl", "d[0].jsonl")] == [
        TEXT_ROWS[number] for number in (0, 2, 3)
    ]
    assert fields("d[0-9].jsonl") == [TEXT_ROWS[4]] * 2
    assert fields("d[0].jsonl[:1]") == [TEXT_ROWS[3]]
    assert fields("~/e.jsonl") == fields("~/e*") == [TEXT_ROWS[5]] * 2
    with pytest.raises(UserError, match=r"b\[:1\]: expected a file of a kind that is read \(.jsonl, .json, .csv or"):
        fields("b[:1]")


def test_the_shards_of_a_folder_are_one_source(tmp_path: Path) -> None:
    assert fields(f"{shards(tmp_path, TEXT_ROWS)}[1:3]") == TEXT_ROWS[1:3]
    assert fields(f"{tmp_path}/sh*/*.gz[-1:]") == TEXT_ROWS[-1:]


def test_suffixes() -> None:
    assert [kind_of(name) for name in ("a.b.JSON.Gz", "x.Arrow", "x.arrow.gz", "jsonl", "x.jsonl.bz2")] == [
        ".json.gz", ".arrow", None, None, None,
    ]  # fmt: skip


def test_a_folder_that_has_changed_is_read_again(tmp_path: Path) -> None:
    """`datasets` by itself knows configurations by names alone."""
    source = f"{configured(tmp_path, TEXT_ROWS)}:good"
    assert fields(source) == TEXT_ROWS
    (tmp_path / "hub" / "good" / "train.jsonl").write_bytes(json_lines(TEXT_ROWS[1:]))
    assert fields(source) == TEXT_ROWS[1:]
    os.renames(tmp_path / "hub", tmp_path / "before" / "hub")
    assert fields(f"{configured(tmp_path, TEXT_ROWS[:3])}:good") == TEXT_ROWS[:3]

"""Rows of every form a user has, and what is said of rows that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from sparsepo_dist.contracts import PreferencePair
from sparsepo_dist.data.pairs import load_pairs
from sparsepo_dist.errors import UserError

ROW = {"prompt": "How was it?", "chosen": " Fine.", "rejected": " Bad."}
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n", encoding="utf-8")
    return str(path)


def pairs(source: str, on_bad_row: str = "stop") -> list[PreferencePair]:
    return [pair for _, pair in load_pairs(source, on_bad_row)]


def test_every_file_form_gives_the_same_pairs(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "chosen": " Great."}]
    want = pairs(write(tmp_path / "a.jsonl", *rows))
    assert [p.chosen for p in want] == [" Fine.", " Great."]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "folder")
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(tmp_path / "splits")
    for source in ("a.json", "a.parquet", "folder", "splits"):
        assert pairs(str(tmp_path / source)) == want, source


def test_byte_order_mark_and_blank_lines_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\n\n")
    assert len(pairs(str(path))) == 1


def test_hh_dialogue_is_split_at_the_last_shared_assistant_turn(tmp_path: Path) -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Name a fruit\n\nAssistant:"
    row = {"chosen": start + " An apple.", "rejected": start + " An anvil."}
    (pair,) = pairs(write(tmp_path / "hh.jsonl", row))
    assert pair == PreferencePair(start, " An apple.", " An anvil.")


def test_messages_with_an_implicit_prompt(tmp_path: Path) -> None:
    question = {"role": "user", "content": "Name a fruit"}
    answers = [{"role": "assistant", "content": text} for text in ("Apple", "Anvil")]
    (pair,) = pairs(write(tmp_path / "m.jsonl", {"chosen": [question, answers[0]], "rejected": [question, answers[1]]}))
    assert pair == PreferencePair((question,), (answers[0],), (answers[1],))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the project's shared data is not beside this checkout")
def test_real_hh_and_imdb_pairs_are_read() -> None:
    hh = [p for _, p in load_pairs(str(SHARED / "hh_harmless_base.jsonl"), "skip")]
    assert len(hh) > 950
    assert all(str(p.prompt).endswith("\n\nAssistant:") for p in hh)
    assert len(pairs(str(SHARED / "imdb_pairs.jsonl"), "skip")) > 600


BAD = [
    ({"prompt": "a", "chosen": "b"}, "'rejected' is missing"),
    ({"chosen": "a", "rejected": "b"}, "no prompt field"),
    ({**ROW, "chosen": None}, "'chosen' is missing"),
    ({**ROW, "chosen": 3}, "chosen must be text or a list of messages, found int"),
    ({**ROW, "prompt": {"a": 1}}, "prompt must be text"),
    ({**ROW, "chosen": "  "}, "chosen is empty"),
    ({**ROW, "rejected": ""}, "rejected is empty"),
    ({**ROW, "rejected": ROW["chosen"]}, "are equal"),
    ({**ROW, "chosen": [{"role": "assistant", "content": "x"}]}, "must both be text or both"),
    ({**ROW, "chosen": [{"role": "assistant"}]}, r"chosen\[0\] must be a message"),
    ({**ROW, "chosen": ["x"]}, r"chosen\[0\] must be a message"),
    ({**ROW, "chosen_score": "high"}, "chosen_score must be a finite number"),
    ({**ROW, "chosen_score": True}, "chosen_score must be a finite number"),
    ("[1, 2]", "expected an object"),
    ("{broken", "not a JSON object"),
    ('"text"', "expected an object"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_bad_row_stops_with_file_row_and_reason(tmp_path: Path, row: object, reason: str) -> None:
    source = write(tmp_path / "bad.jsonl", ROW, row)
    with pytest.raises(UserError, match=reason) as caught:
        pairs(source)
    assert f"{source}, row 2" in str(caught.value) and "on_bad_row skip" in str(caught.value)
    assert len(pairs(source, "skip")) == 1


def test_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b'\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(UserError, match="row 2: not UTF-8"):
        pairs(str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "no such file"),
        ("empty.jsonl", "", "holds no rows"),
        ("rows.json", '{"prompt": 1}', "expected a list of rows"),
        ("rows.json", "not json", "must be named .jsonl"),
        ("rows.csv", "a,b", "expected a .jsonl, .json or .parquet"),
        ("rows.parquet", "not parquet", "not a Parquet file"),
    ],
)
def test_unreadable_source_is_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        pairs(str(path))

"""Rows of every form a user has, and what is said of rows that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from sparsepo_dist.contracts import Message, PreferenceRow
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.errors import UserError
from tests.support.rows import load_pairs, pair_row

ROW = {"prompt": "How was it?", "chosen": " Fine.", "rejected": " Bad."}
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n", encoding="utf-8")
    return str(path)


def pairs(source: str, on_bad_row: Literal["stop", "skip"] = "stop") -> list[PreferenceRow]:
    return [pair for _, pair in load_pairs(source, DataConfig(on_bad_row=on_bad_row))]


def test_every_file_form_gives_the_same_pairs(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "chosen": " Great."}]
    want = pairs(write(tmp_path / "a.jsonl", *rows))
    assert [p.chosen for p in want] == [(" Fine.",), (" Great.",)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "folder")
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(tmp_path / "splits")
    for source in ("a.json", "a.parquet", "folder", "splits"):
        assert pairs(str(tmp_path / source)) == want, source


def test_the_response_of_dialogues_is_all_from_where_they_part(tmp_path: Path) -> None:
    more = [user("And another?"), assistant("Pear")]
    row = {"chosen": [ASKED, BEST, *more], "rejected": [ASKED, WORST, *more]}
    assert pairs(write(tmp_path / "a.jsonl", row)) == [pair_row((ASKED,), (BEST, *more), (WORST, *more))]


def test_byte_order_mark_and_blank_lines_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\n\n")
    assert len(pairs(str(path))) == 1


def test_hh_dialogue_is_split_at_the_last_shared_assistant_turn(tmp_path: Path) -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Name a fruit\n\nAssistant:"
    row = {"chosen": start + " An apple.", "rejected": start + " An anvil."}
    (pair,) = pairs(write(tmp_path / "hh.jsonl", row))
    assert pair == pair_row(start, " An apple.", " An anvil.")


def test_messages_with_an_implicit_prompt(tmp_path: Path) -> None:
    question = {"role": "user", "content": "Name a fruit"}
    answers = [{"role": "assistant", "content": text} for text in ("Apple", "Anvil")]
    (pair,) = pairs(write(tmp_path / "m.jsonl", {"chosen": [question, answers[0]], "rejected": [question, answers[1]]}))
    assert pair == pair_row((question,), (answers[0],), (answers[1],))


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}
ASKED, BEST, WORST = user("Name a fruit"), assistant("Apple"), assistant("Anvil")
FRUIT = pair_row((ASKED,), (BEST,), (WORST,))
HH_START = "\n\nHuman: Name a fruit\n\nAssistant:"


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "pair"),
    [
        ([ASKED], [ASKED, BEST], [ASKED, WORST], FRUIT),
        ("Name a fruit", [ASKED, BEST], [ASKED, WORST], FRUIT),
        (
            "Name a fruit",
            [SYSTEM, ASKED, BEST],
            [SYSTEM, ASKED, WORST],
            pair_row((SYSTEM, ASKED), (BEST,), (WORST,)),
        ),
        (
            [SYSTEM, ASKED, BEST, user("More")],
            [SYSTEM, ASKED, BEST, user("More"), BEST],
            [SYSTEM, ASKED, BEST, user("More"), WORST],
            pair_row((SYSTEM, ASKED, BEST, user("More")), (BEST,), (WORST,)),
        ),
        (
            [{**ASKED, "content": [{"type": "text", "text": "Name a fruit"}]}],
            [ASKED, BEST],
            [ASKED, WORST],
            pair_row(({**ASKED, "content": [{"type": "text", "text": "Name a fruit"}]},), (BEST,), (WORST,)),
        ),
        (
            HH_START,
            HH_START + " An apple.",
            HH_START + " An anvil.",
            pair_row(HH_START, " An apple.", " An anvil."),
        ),
    ],
)
def test_a_prompt_that_both_responses_repeat_is_taken_off_once_and_counted(
    tmp_path: Path, prompt: object, chosen: object, rejected: object, pair: PreferenceRow
) -> None:
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    source = write(tmp_path / "rows.jsonl", row, row, {"prompt": "a", "chosen": "a b", "rejected": "a c"})
    remarks = Remarks()
    found = [found for _, found in load_pairs(source, DataConfig(), remarks)]
    assert found == [
        pair,
        pair,
        pair_row("a", "a b", "a c"),
    ]  # text that is no dialogue may begin like its prompt
    assert remarks.lines() == ["the responses of 2 rows repeat the prompt at their beginning, which was taken off"]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "reason"),
    [
        ([ASKED], [ASKED, BEST], [WORST], "chosen begins with the whole prompt and rejected does not"),
        ([ASKED], [BEST], [ASKED, WORST], "rejected begins with the whole prompt and chosen does not"),
        ("Name a fruit", [ASKED, BEST], [user("Name it"), WORST], "chosen begins with the whole prompt and rejected"),
        (HH_START, HH_START + " An apple.", " An anvil.", "chosen begins with the whole prompt and rejected does not"),
        ("Another", [ASKED, BEST], [ASKED, WORST], "prompt and chosen must both be text or both be lists of messages"),
        ([ASKED], [ASKED], [ASKED, WORST], "chosen is empty"),
        ([ASKED], [ASKED, ASKED, BEST], [ASKED, ASKED, WORST], "chosen begins with a message of the role user"),
        ([SYSTEM, ASKED], [ASKED, BEST], [ASKED, WORST], "chosen begins with a message of the role user"),
    ],
)
def test_a_prompt_that_is_repeated_otherwise_is_a_bad_row(
    tmp_path: Path, prompt: object, chosen: object, rejected: object, reason: str
) -> None:
    source = write(tmp_path / "rows.jsonl", ROW, {"prompt": prompt, "chosen": chosen, "rejected": rejected})
    with pytest.raises(UserError, match=f"row 2: {reason}"):
        pairs(source)
    assert len(pairs(source, "skip")) == 1


def test_columns_that_are_not_used_are_named_once(tmp_path: Path) -> None:
    rows = [{**ROW, "id": 1, "note": "x", "images": None}, {**ROW, "id": 2, "tools": ["x"], "note": None}]
    remarks = Remarks()
    assert len(list(load_pairs(write(tmp_path / "rows.jsonl", *rows), DataConfig(), remarks))) == 2
    assert remarks.lines() == ["columns that are not used: id, note, tools"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    column = pyarrow.array(["a"])
    pyarrow.parquet.write_table(pyarrow.table([column] * 4, names=["prompt", "chosen", "chosen", "rejected"]), path)
    with pytest.raises(UserError, match=r"rows.parquet: the column 'chosen' stands twice; rename"):
        pairs(str(path))
    twins = pyarrow.StructArray.from_arrays([column] * 3, names=["role", "content", "content"])
    table = pyarrow.table({"prompt": pyarrow.ListArray.from_arrays([0, 1], twins), "chosen": column})
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(UserError, match=r"rows.parquet: the column 'prompt.content' stands twice; rename"):
        pairs(str(path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the project's shared data is not beside this checkout")
def test_real_hh_and_imdb_pairs_are_read() -> None:
    hh = [p for _, p in load_pairs(str(SHARED / "hh_harmless_base.jsonl"), DataConfig(on_bad_row="skip"))]
    assert len(hh) > 950
    assert all(str(p.prompt).endswith("\n\nAssistant:") for p in hh)
    assert len(pairs(str(SHARED / "imdb_pairs.jsonl"), "skip")) > 600


BAD = [
    ({"prompt": "a", "chosen": "b"}, "'rejected' is missing"),
    ({"chosen": "a", "rejected": "b"}, "prompt is missing, and most of the first rows have it"),
    ({**ROW, "chosen": None}, "chosen is null"),
    ({**ROW, "prompt": None}, "prompt is null; give one"),
    ({**ROW, "chosen": 3}, "chosen must be text or a list of messages, found int"),
    ({**ROW, "prompt": {"a": 1}}, "prompt must be text"),
    ({**ROW, "chosen": "  "}, "chosen is empty"),
    ({**ROW, "rejected": ""}, "rejected is empty"),
    ({**ROW, "rejected": ROW["chosen"]}, "are equal"),
    ({**ROW, "chosen": [{"role": "assistant", "content": "x"}]}, "must both be text or both"),
    ({**ROW, "chosen": [{"role": "assistant"}]}, r"chosen\[0\] must be a message"),
    ({**ROW, "chosen": [3]}, r"chosen\[0\] must be a message"),
    ({**ROW, "chosen": ["x", {"role": "assistant", "content": "y"}]}, r"chosen\[1\] is an object beside texts"),
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
        ("rows.txt", "a,b", "expected a file of a kind that is read"),
        ("rows.parquet", "not parquet", "not a Parquet file"),
    ],
)
def test_unreadable_source_is_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        pairs(str(path))

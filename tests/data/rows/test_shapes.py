"""Forms of rows: recognised by their columns, or named; what is said and refused of them."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pyarrow
import pyarrow.parquet
import pytest

from sparsepo_dist.contracts import PreferenceRow
from sparsepo_dist.data.config import ROLES, DataConfig, FormatName
from sparsepo_dist.data.rows import summaries
from sparsepo_dist.data.rows.checks import MOST_RESPONSES
from sparsepo_dist.data.rows.pairs import open_rows
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.data.rows.shapes import READS, SHAPES
from sparsepo_dist.errors import UserError
from tests.support.rows import load_pairs
from tests.support.shapes import KNOWN, Known, assistant, dialogue, user

ROW = {"prompt": "a", "chosen": "b", "rejected": "c"}


def write(folder: Path, *rows: object) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def load(source: str, remarks: Remarks | None = None, **config: Any) -> list[PreferenceRow]:
    return [row for _, row in load_pairs(source, DataConfig(**config), remarks)]


def test_every_form_has_a_name_and_an_example() -> None:
    names = {shape.name for shape in SHAPES if shape.reader != "unpaired"}
    assert {"auto", *names} == set(get_args(FormatName))
    assert names == {known.form for known in KNOWN}
    assert {role for roles in READS.values() for role in roles} == set(ROLES)


@pytest.mark.parametrize("known", [known for known in KNOWN if known.columns == "{}"], ids=lambda known: known.name)
def test_a_named_form_is_what_is_recognised_and_columns_besides_are_said(tmp_path: Path, known: Known) -> None:
    source, remarks = write(tmp_path, *known.rows), Remarks()
    rows = load(source, remarks)
    assert load(source, format=known.form) == rows
    assert all(len(row.rejected) == 0 for row in rows) == known.supervised
    if known.scores is not None:
        assert (rows[0].chosen_scores[0], rows[0].rejected_scores[0]) == known.scores
    lines = remarks.lines()
    assert any(line.startswith(f"rows are read as {known.form} ") for line in lines) == (
        known.name not in ("preference", "preference several texts", "preference several messages")
    )
    assert ("columns that are not used: " + known.unused in lines) == bool(known.unused)


@pytest.mark.parametrize("name", ["chosen_score", "score_chosen", "chosen_rating", "rating_chosen", "chosen-rating"])
def test_scores_are_found_under_the_names_that_they_have(tmp_path: Path, name: str) -> None:
    row = {**ROW, name: 2, name.replace("chosen", "rejected"): 1}
    (found,) = load(write(tmp_path, row))
    assert (found.chosen_scores, found.rejected_scores) == ((2.0,), (1.0,))


def test_scores_of_tables_with_decimals_are_read(tmp_path: Path) -> None:
    row = {**ROW, "chosen_score": Decimal("4.5"), "rejected_score": Decimal("1.0")}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "rows.parquet")
    (found,) = load(str(tmp_path / "rows.parquet"))
    assert (found.chosen_scores, found.rejected_scores) == ((4.5,), (1.0,))


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"conversations": dialogue("a", "b")}, {"messages": "conversations"}),
        ({"instruction": "a", "output": "b"}, {"prompt": "instruction", "completion": "output"}),
    ],
)
def test_other_forms_are_read_as_their_errors_say(tmp_path: Path, row: object, columns: dict[str, str]) -> None:
    assert len(load(write(tmp_path, row), columns=columns)) == 1


USERS = [
    ([{**ROW, "question": "q"}], {}, "prompt could be any of the columns prompt, question; say which with"),
    ([{**ROW, "score_chosen": 2, "chosen_rating": 3}], {}, "chosen_score could be any of the columns score_chosen, c"),
    ([{"text": "a", "messages": dialogue("a", "b")}], {}, r"read as messages \(messages\), text \(text\); say which"),
    ([ROW], {"columns": {"prompt": "promt"}}, "no column promt for prompt; it has prompt, chosen, rejected; did you"),
    ([{**ROW, "info": {"post": "x"}}], {"columns": {"prompt": "info.pots"}}, "did you mean info.post"),
    ([ROW], {"columns": {"messages": "prompt"}}, "messages is not read of rows of the form hh"),
    ([ROW], {"format": "orca"}, "no row of the form orca, which has system and question and chosen and rejected"),
    ([{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}], {},
     "ShareGPT's form: write from and value as role .*, and say --data.columns '{messages: conversations}'"),
    ([{"conversations": dialogue("a", "b")}], {}, "another name: say --data.columns '{messages: conversations}'"),
    ([{"instruction": "a", "input": "x", "output": "b"}], {},
     "alpaca's form: say --data.columns '{prompt: instruction, completion: output}' .*once input is written behind"),
    ([{"prompt": "a", "completion": "b", "label": True}], {}, "unpaired: .* kto too, take pairs: put a good and a bad"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "config", "message"), USERS)
def test_what_is_settled_for_a_source_is_an_error_whatever_becomes_of_bad_rows(
    tmp_path: Path, rows: list[object], config: dict[str, Any], message: str
) -> None:
    source = write(tmp_path, *rows)
    for on_bad_row in ("stop", "skip"):
        with pytest.raises(UserError, match=message):
            load(source, on_bad_row=on_bad_row, **config)


def test_an_ambiguity_ends_where_a_column_is_named(tmp_path: Path) -> None:
    (row,) = load(write(tmp_path, {**ROW, "question": "q"}), columns={"prompt": "question"})
    assert row.prompt == "q"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"promt": "a"}, "promt is none of prompt, .*did you mean prompt"),
        ({"prompt": "a", "chosen": "a"}, "a is given for prompt and for chosen"),
        ({"prompt": " "}, "the column of prompt is empty"),
    ],
)
def test_columns_that_cannot_be_are_refused(columns: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=f"data.columns: {message}"):
        DataConfig(columns=columns).validate()


SFT = {"prompt": "a", "completion": "b"}
CHAT = {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]}
BAD = [
    (SFT, ROW, "it is of the form preference, and its source is read as prompt_completion"),
    (ROW, SFT, "it is of the form prompt_completion, and its source is read as preference"),
    (ROW, {**ROW, "chosen": ["b", [assistant("x")]]}, r"prompt and chosen\[1\] must both be text or both be lists"),
    (ROW, {**ROW, "chosen": ["b", ""]}, r"chosen\[1\] is empty"),
    (ROW, {**ROW, "chosen": ["b", "c"]}, r"chosen\[1\] and rejected are equal"),
    (ROW, {**ROW, "chosen": list("ab" * MOST_RESPONSES)}, "chosen has 2048 responses; at most 1024"),
    (ROW, {**ROW, "chosen": ["b", "d"], "chosen_score": [1]}, "chosen_score has 1 numbers for 2 responses"),
    (ROW, {**ROW, "chosen": ["b", "d"], "chosen_score": [1, None]}, "chosen_score holds null"),
    (ROW, {**ROW, "chosen_score": "4.5"}, "chosen_score must .*found '4.5', which is text: write it without quotes"),
    ({"messages": dialogue("a", "b")}, {"messages": [{"from": "human", "value": "a"}]},
     r"messages\[0\].role is missing; .* with role and content: write from and value as role"),
    (SFT, {"prompt": "", "completion": "b"}, "prompt is empty"),
    ({**SFT, "system": "s"}, {"prompt": "", "completion": "b", "system": "s"}, "prompt is empty"),
    ({**ROW, "system": "s"}, {**ROW, "prompt": "", "system": "s"}, "prompt is empty"),
    ({"messages": dialogue("a", "b")}, {"messages": [user("a")]}, "messages ends with a message of the role user"),
    ({"messages": dialogue("a", "b")}, {"messages": [assistant("a")]}, "messages holds the assistant's answer alone"),
    ({"messages": dialogue("a", "b")}, {"messages": []}, "messages is empty"),
    ({"text": "a"}, {"text": None}, "text is null"),
    ({"text": "a"}, {"text": ["a"]}, "text must be text, found list"),
    ({"text": "a"}, {"text": "a", "system": "s"}, "system cannot stand before a whole text"),
    ({**ROW, "system": "s"}, {**ROW, "system": 3}, "system must be text, found int"),
    ({**CHAT, "system": "s"}, {**CHAT, "prompt": [{"role": "system", "content": "t"}, user("a")], "system": "s"},
     "system differs from the system message"),
    ({**ROW, "system": "s"}, {"prompt": "a", "chosen": "\n\nHuman: a\n\nAssistant: b", "system": "s",
                              "rejected": "\n\nHuman: a\n\nAssistant: c"},
     "system cannot stand before a dialogue that is text"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "row", "reason"), BAD)
def test_a_bad_row_is_named(tmp_path: Path, first: object, row: object, reason: str) -> None:
    source = write(tmp_path, first, row)
    with pytest.raises(UserError, match=f"rows.jsonl, row 2: {reason}"):
        load(source)
    assert len(load(source, on_bad_row="skip")) == 1


def test_the_form_is_that_of_most_of_the_first_rows(tmp_path: Path) -> None:
    source = write(tmp_path, SFT, ROW, ROW)
    with pytest.raises(UserError, match="row 1: it is of the form prompt_completion, and its source is read as pref"):
        load(source)
    assert len(load(source, on_bad_row="skip")) == 2


def test_a_column_of_system_messages_that_begins_late_is_named(tmp_path: Path) -> None:
    source = write(tmp_path, *[ROW] * 100, {**ROW, "system": "s"})
    with pytest.raises(UserError, match="row 101: system cannot stand before .* say --data.columns '{system: system}'"):
        load(source)
    source = write(tmp_path, *[{**ROW, "system": None}] * 100, {**ROW, "system": "s"})
    rows = load(source, columns={"system": "system"})
    assert rows[0].prompt == (user("a"),) and rows[100].prompt == ({"role": "system", "content": "s"}, user("a"))
    assert load(write(tmp_path, ROW, {**ROW, "system": "s"}))[0].prompt == (user("a"),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choice": 2}, "choice must be 0 or 1, found 2"),
        ({"choice": True}, "choice must be 0 or 1, found True"),
        ({"summaries": [{"text": "x"}]}, "summaries must be a list of two"),
        ({"summaries": [{"text": "x"}, {"text": 3}]}, r"summaries\[1\].text must be text"),
        ({"info": {"post": "x"}}, "info.subreddit must be text, found NoneType"),
        ({"info": "x"}, "info must be an object"),
        ({"info": None}, "info must be an object"),
    ],
)
def test_a_bad_comparison_is_named(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good = next(known for known in KNOWN if known.name == "tldr_comparisons").rows[0]
    with pytest.raises(UserError, match=f"row 2: {reason}"):
        load(write(tmp_path, good, {**good, **change}))


def test_posts_without_a_pair_and_ratings_without_a_number_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = next(known for known in KNOWN if known.name == "tldr_ratings")
    unrated = {**known.rows[0], "summary": {"text": "x", "axes": {"overall": None}}}
    source, remarks = write(tmp_path, *known.rows, unrated), Remarks()
    assert len(load(source, remarks, on_bad_row="skip")) == 2
    assert any("1 posts have no two summaries of different ratings" in line for line in remarks.lines())
    assert any("row 8: summary.axes.overall is missing or null" in line for line in remarks.lines())
    monkeypatch.setattr(summaries, "MOST_POSTS", 2)
    with pytest.raises(UserError, match="more than 2 posts with rated summaries"):
        load(source)


def test_sources_without_rejected_responses_are_refused_where_those_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"have no rejected response, .* say --objective.name sft"):
        list(load_pairs(write(tmp_path, SFT), DataConfig(), needs_rejected=True))


def test_a_form_travels_to_other_processes_and_their_remarks_come_together(tmp_path: Path) -> None:
    source = write(tmp_path, {**ROW, "system": "s"})
    form, _ = open_rows(source, DataConfig(), Remarks())
    assert pickle.loads(pickle.dumps(form)) == form
    halves = []
    for rows in ([{**ROW, "x": 1}, {**ROW, "chosen": "c"}], [{**ROW, "y": 1}, {**ROW, "chosen": ""}, CHAT, "text"]):
        halves.append(Remarks())
        load(write(tmp_path, *rows), halves[-1], on_bad_row="skip")
    whole = Remarks()
    load(
        write(tmp_path, {**ROW, "x": 1}, {**ROW, "chosen": "c"}, {**ROW, "y": 1}, {**ROW, "chosen": ""}, CHAT, "text"),
        whole,
        on_bad_row="skip",
    )
    halves[0].merge(halves[1])
    assert halves[0].dropped == whole.dropped and list(halves[0].unused) == list(whole.unused) == ["x", "y"]


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_a_column_of_no_system_messages_leaves_texts_as_they_are(tmp_path: Path, empty: str | None) -> None:
    assert load(write(tmp_path, *[{**ROW, "system": empty}] * 2)) == load(write(tmp_path, *[ROW] * 2))
    orca = {"system": empty, "question": "a", "chosen": "b", "rejected": "c"}
    assert load(write(tmp_path, orca)) == load(write(tmp_path, ROW))
    assert load(write(tmp_path, orca), format="orca")[0].prompt == (user("a"),)


def test_a_choice_of_a_table_with_nulls_is_a_whole_number(tmp_path: Path) -> None:
    (good,) = next(known for known in KNOWN if known.name == "tldr_comparisons").rows[:1]
    first, second = load(write(tmp_path, {**good, "choice": 1.0}, {**good, "choice": 0.0}))
    assert (first.chosen, second.chosen) == (second.rejected, first.rejected)
    with pytest.raises(UserError, match=r"row 2: choice must be 0 or 1, found 0\.5"):
        load(write(tmp_path, good, {**good, "choice": 0.5}))


def test_a_column_of_scores_counts_that_holds_none_in_the_first_rows(tmp_path: Path) -> None:
    empty, scored = ({**ROW, "score_chosen": best, "score_rejected": worst} for best, worst in ((None, None), (2, 1)))
    rows = load(write(tmp_path, *[empty] * 100, scored))
    assert rows[0].chosen_scores == () and (rows[100].chosen_scores, rows[100].rejected_scores) == ((2.0,), (1.0,))
    (row,) = load(write(tmp_path, {**scored, "chosen_rating": None}))
    assert row.chosen_scores == (2.0,)

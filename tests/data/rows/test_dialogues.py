"""Whole dialogues and where their prompts end; roles that a response may have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.contracts import PreferenceRow
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.errors import UserError
from tests.support.rows import load_pairs, pair_row


def load(folder: Path, *rows: object, **config: Any) -> list[PreferenceRow]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row for _, row in load_pairs(str(folder / "rows.jsonl"), DataConfig(**config))]


ONE = "\n\nHuman: q\n\nAssistant:"
TWO = ONE + " a\n\nHuman: r\n\nAssistant:"


@pytest.mark.parametrize(
    ("prompt", "start", "expected"),
    [
        ("q", ONE, ONE),
        (" q\n", ONE.lstrip(), ONE.lstrip()),
        ("q", TWO, TWO),
        ("r", TWO, TWO),
        ("Human: q\n\nAssistant:", ONE, ONE),
        (ONE, ONE.lstrip(), ONE.lstrip()),
        ("\n\nHuman: q", ONE, ONE),
        ("Human: q", ONE, ONE),
        (TWO.removesuffix("\n\nAssistant:"), TWO, TWO),
    ],
)
def test_a_prompt_beside_whole_dialogues_of_text_is_not_doubled(
    tmp_path: Path, prompt: str, start: str, expected: str
) -> None:
    (row,) = load(tmp_path, {"prompt": prompt, "chosen": start + " good", "rejected": start + " bad"})
    assert row == pair_row(expected, " good", " bad")


def test_a_prompt_that_dialogues_go_on_from_ends_where_it_says(tmp_path: Path) -> None:
    (row,) = load(tmp_path, {"prompt": ONE, "chosen": TWO + " good", "rejected": TWO + " bad"})
    assert row.prompt == ONE and row.chosen == (TWO.removeprefix(ONE) + " good",)


@pytest.mark.parametrize(
    ("prompt", "start"),
    [("other", ONE), ("\n\nHuman: other\n\nAssistant:", ONE), ("\n\nHuman: q", ONE.replace("q", "quite"))],
)
def test_a_whole_dialogue_behind_another_prompt_is_a_bad_row(tmp_path: Path, prompt: str, start: str) -> None:
    for begun in (start, start.lstrip()):
        with pytest.raises(
            UserError, match="row 1: chosen is a whole dialogue: it begins with .* leave prompt out where"
        ):
            load(tmp_path, {"prompt": prompt, "chosen": begun + " good", "rejected": begun + " bad"})
    (row,) = load(tmp_path, {"prompt": "Play both.", "chosen": "Human: Hi. AI: Ho.", "rejected": "Human: No."})
    assert row.chosen == ("Human: Hi. AI: Ho.",)


def test_the_form_of_whole_dialogues_says_how_a_prompt_beside_them_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no row of the form hh.* --data.format preference takes a prompt off"):
        load(tmp_path, {"prompt": "q", "chosen": ONE + " good", "rejected": ONE + " bad"}, format="hh")


def test_dialogues_that_share_nothing_need_a_prompt(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 1: there is no prompt field"):
        load(tmp_path, {"chosen": "a", "rejected": "b"})


def test_rows_with_a_prompt_and_rows_without_do_not_go_together(tmp_path: Path) -> None:
    whole = {"chosen": ONE + " good", "rejected": ONE + " bad"}
    asked = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    with pytest.raises(UserError, match="row 102: prompt is missing, and most of the first rows have it; put rows of"):
        load(tmp_path, *[asked] * 101, whole)
    with pytest.raises(UserError, match="row 1: prompt is there, and most of the first rows do not have it"):
        load(tmp_path, asked, whole, whole)
    assert len(load(tmp_path, asked, whole, whole, on_bad_row="skip")) == 2


ASKED = {"role": "user", "content": "q"}
GOOD, BAD = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}
TOLD = {"role": "tool", "content": "told"}


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (
            [{**GOOD, "role": "gpt"}],
            "chosen has a message of the role 'gpt'; the model's own are of the role 'assistant'",
        ),
        ([{**GOOD, "role": "Assistant"}], "chosen has a message of the role 'Assistant'"),
        ([GOOD, ASKED, {**GOOD, "role": "model"}], "chosen has a message of the role 'model'"),
        ([GOOD, ASKED], "chosen ends with a message of the role user"),
        ([GOOD, TOLD], "chosen ends with a message of the role tool"),
        ([TOLD, GOOD], "chosen begins with a message of the role tool"),
    ],
)
def test_a_response_is_the_assistants_from_its_beginning_to_its_end(
    tmp_path: Path, response: list[object], reason: str
) -> None:
    for row in (
        {"prompt": [ASKED], "chosen": response, "rejected": [BAD]},
        {"chosen": [ASKED, *response], "rejected": [ASKED, BAD]},
    ):
        with pytest.raises(UserError, match=f"row 1: {reason}"):
            load(tmp_path, row)
    (row,) = load(tmp_path, {"prompt": [ASKED], "chosen": [GOOD, TOLD, GOOD, ASKED, GOOD], "rejected": [BAD]})
    assert row.chosen == ((GOOD, TOLD, GOOD, ASKED, GOOD),)

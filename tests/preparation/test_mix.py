"""`sparsepo prepare mix` on rows of dpo-mix-7k's schema: what is kept, said and trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import Row, read_rows
from sparsepo_dist.errors import UserError
from sparsepo_dist.preparation.command import prepare


def dialogue(*texts: str) -> list[dict[str, str]]:
    return [{"content": text, "role": ("user", "assistant")[i % 2]} for i, text in enumerate(texts)]


def row(prompt: str, good: str = "Yes.", bad: str = "No.", **changed: Any) -> dict[str, Any]:
    return {
        "dataset": "argilla/distilabel-capybara-dpo-7k-binarized", "chosen": dialogue(prompt, good),
        "rejected": dialogue(prompt, bad), "chosen_rating": 5.0, "rejected_rating": 4.0, **changed,
    }  # fmt: skip


def clone(folder: Path, train: list[Any], test: list[Any]) -> Path:
    """The set as a clone has it: a file for each split."""
    (folder / "data").mkdir(parents=True)
    for name, rows in (("train", train), ("test", test)):
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (folder / "data" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def fields(source: str) -> list[Any]:
    return [found.fields for found in read_rows(source) if isinstance(found, Row)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    longer = row("Hi", chosen=dialogue("Hi", "Ho.", "And?", "Yes."), rejected=dialogue("Hi", "Ho.", "And?", "No."))
    unanswered = row("Hi", chosen=dialogue("Hi", "Ho.", "And?"))
    train = [row("1 + 1?"), row("Same", bad="Yes."), longer, unanswered, row("Blank", bad=" ")]
    return clone(tmp_path / "dpo-mix-7k", train, [row("1 + 1?"), row("New")])


def test_a_folder_is_what_data_takes_and_its_card_what_was_left_out(source: Path, tmp_path: Path) -> None:
    folder, was_there = prepare(["mix", "--output", str(tmp_path / "mix"), "--train", str(source)])
    assert not was_there and not list(tmp_path.glob(".preparing*"))
    assert [r["chosen"][0]["content"] for r in fields(str(folder))] == ["1 + 1?", "Hi"]
    assert [r["chosen"][0]["content"] for r in fields(f"{folder}:heldout")] == ["1 + 1?", "New"]
    assert [r["messages"] for r in fields(f"{folder}:sft")] == [r["chosen"] for r in fields(str(folder))]
    assert len(fields(f"{folder}:sft_heldout[1:]")) == 1
    card = json.loads((folder / "card.json").read_text())
    assert [(s["before"], s["after"]) for s in card["steps"]] == [(5, 4), (4, 2), (2, 2), (2, 2)]
    assert card["counts"]["held-out rows whose prompt is in the training rows too"] == 1
    assert {f["name"]: f["rows"] for f in card["files"]} == {
        "train.jsonl": 2, "sft.jsonl": 2, "heldout.jsonl": 2, "sft_heldout.jsonl": 2
    }  # fmt: skip
    text = (folder / "card.md").read_text()
    assert "| --train: answers differ | 5 rows | 4 | 1 |" in text and card["files"][0]["sha256"] in text


def test_a_split_that_is_not_there(source: Path, tmp_path: Path) -> None:
    folder, _ = prepare(["mix", "--output", str(tmp_path / "mix"), "--train", str(source)])
    with pytest.raises(UserError, match=r"without heldouts; it has heldout, sft, sft_heldout, train; did you mean hel"):
        next(read_rows(f"{folder}:heldouts"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"prompt": "Hi", "chosen": "Yes.", "rejected": "No."},
            r"field 'dataset' is missing \(there is prompt, chosen, ",
        ),
        (row("Hi", chosen="Yes."), r"field 'chosen' must be a list of messages, each with role and content, found str"),
        (row("Hi", chosen_rating=None), r"field 'chosen_rating' must be a number, found null"),
    ],
)
def test_rows_of_another_schema(tmp_path: Path, bad: Any, message: str) -> None:
    """One error, that names the file, the row and what was expected."""
    train, test = tmp_path / "rows.jsonl", tmp_path / "test.jsonl"
    train.write_text(json.dumps(row("Hi")) + "\n" + json.dumps(bad) + "\n")
    test.write_text(json.dumps(row("Hi")) + "\n")
    where = rf"--train .*rows\.jsonl, row 2: {message}.*; expected rows of argilla/dpo-mix-7k, with dataset, chosen"
    with pytest.raises(UserError, match=where):
        prepare(["mix", "--output", str(tmp_path / "mix"), "--train", str(train), "--heldout", str(test)])
    assert not (tmp_path / "mix").exists()


def test_recipes_say_what_makes_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in ("data/mix", "data/mix:heldout", "data/mix/train.jsonl"):
        with pytest.raises(UserError, match=r"made first: `sparsepo prepare mix --output data/mix`"):
            next(read_rows(DataConfig(train=source).train_specs()[0].source))

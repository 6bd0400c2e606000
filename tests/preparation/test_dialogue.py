"""`sparsepo prepare dialogue` on rows of Anthropic HH's schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import Row, read_rows
from sparsepo_dist.data.rows.pairs import open_rows, parse_row
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.errors import UserError
from sparsepo_dist.preparation.command import prepare

ASKED = "\n\nHuman: What is 1 + 1?\n\nAssistant:"
LONGER = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: And now?\n\nAssistant:"
TRAIN = [
    {"chosen": f"{ASKED} Two.", "rejected": f"{ASKED} Three."},
    {"chosen": f"{LONGER} Bye.", "rejected": f"{LONGER} No."},
    {"chosen": f"{ASKED} Two.\n\nHuman: Sure?\n\nAssistant: Yes.", "rejected": f"{ASKED} Four."},
    {"chosen": f"{ASKED} Two.", "rejected": f"{ASKED} Two."},
    {"chosen": f"{ASKED} ", "rejected": f"{ASKED} Two."},
    {"chosen": f"{ASKED} \n\nHuman: Hello?\n\nAssistant: Two.", "rejected": f"{ASKED} Four."},
    {"chosen": f"{ASKED} Two.\n\nHuman: \n\nAssistant: Yes.", "rejected": f"{ASKED} Four."},
]
"""The last one has an empty turn amid, which text bears and messages do not."""
OTHER = "\n\nHuman: And 2 + 2?\n\nAssistant:"
TEST = [
    {"chosen": f"{ASKED} 2", "rejected": f"{ASKED} 3"}, {"chosen": f"{ASKED} 2!", "rejected": f"{ASKED} 3!"},
    {"chosen": f"{OTHER} 4", "rejected": f"{OTHER} 5"}, {"chosen": f"{OTHER} 4!", "rejected": f"{OTHER} 5!"},
]  # fmt: skip
"""Of the first prompt the training rows have some, too."""


def prepared(folder: Path, *options: str, train: list[Any] = TRAIN) -> Path:
    for name, rows in (("train", train), ("test", TEST)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = ["--train", str(folder / "train.jsonl"), "--heldout", str(folder / "test.jsonl")]
    return prepare(["dialogue", "--output", str(folder / "out"), *sources, *options])[0]


def fields(source: str) -> list[Any]:
    return [row.fields for row in read_rows(source) if isinstance(row, Row)]


def test_text(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    train = fields(str(folder))
    assert train[0] == {"prompt": ASKED, "chosen": " Two.", "rejected": " Three."}
    assert train[1] == {"prompt": LONGER, "chosen": " Bye.", "rejected": " No."}
    assert train[2]["chosen"] == " Two.\n\nHuman: Sure?\n\nAssistant: Yes." and len(train) == 4
    assert fields(f"{folder}:sft")[1] == {"prompt": LONGER, "completion": " Bye."}
    assert fields(f"{folder}:prompts") == [{"prompt": OTHER}]  # each once, and none that is trained on
    card = json.loads((folder / "card.json").read_text())
    left_out = {step["said"]: (step["before"], step["after"]) for step in card["steps"]}
    assert left_out == {
        "--train: without rows where chosen and rejected are equal": (7, 6),
        "--train: without rows where chosen is empty": (6, 5),
        "--train: without rows where chosen begins with an empty turn": (5, 4),
        "prompts.jsonl: not among the training prompts": (2, 1),
    }
    assert card["counts"]["--train: pairs of which a response holds further turns"] == 2
    assert card["counts"]["held-out pairs whose prompt is in the training pairs too"] == 2


def test_messages(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "--form", "messages")
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    _, longer, going_on = fields(str(folder))
    assert longer["prompt"] == [*said, {"role": "user", "content": "And now?"}]
    assert longer["chosen"] == [{"role": "assistant", "content": "Bye."}]
    assert [message["content"] for message in going_on["chosen"]] == ["Two.", "Sure?", "Yes."]
    assert fields(f"{folder}:sft")[1] == {"prompt": longer["prompt"], "completion": longer["chosen"]}
    steps = json.loads((folder / "card.json").read_text())["steps"]
    assert ("--train: without rows where chosen has an empty turn", 1) in [
        (step["said"], step["before"] - step["after"]) for step in steps
    ]


@pytest.mark.parametrize("form", ["text", "messages"])
def test_runs_read_what_was_written(tmp_path: Path, form: str) -> None:
    folder = prepared(tmp_path, "--form", form)
    for name, expects in (("train", True), ("heldout", True), ("sft", False), ("sft_heldout", False)):
        settled, rows = open_rows(f"{folder}:{name}", DataConfig(), Remarks(), needs_rejected=expects)
        found = [parse_row(row, settled, Remarks()) for row in rows if isinstance(row, Row)]
        assert found and all(len(row.chosen) == 1 and len(row.rejected) == expects for row in found)


def test_rows_of_another_set(tmp_path: Path) -> None:
    wrong = {"prompt": "Hi", "chosen": "Hello.", "rejected": "Go away."}
    message = (
        r"--train .*train\.jsonl, row 2: field 'chosen' must be a dialogue of Human: and Assistant: turns, found str "
        r"'Hello\.'; expected rows of Anthropic/hh-rlhf, with chosen, rejected"
    )
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, train=[TRAIN[0], wrong])
    assert not (tmp_path / "out").exists()


def test_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--train .*: nothing is left to prepare: .* are equal, 0 of 1 rows$"):
        prepared(tmp_path, train=TRAIN[3:4])
    half = {"chosen": f"{ASKED} \ud800.", "rejected": f"{ASKED} No."}
    with pytest.raises(UserError, match=r"--train .*train\.jsonl, row 1: field 'chosen' holds half a character"):
        prepared(tmp_path, train=[half])


def test_a_file_has_no_test_split(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(TRAIN[0]))
    with pytest.raises(UserError, match=r"^--heldout .*rows\.jsonl:test: .* is a file, and has no configuration or sp"):
        prepare(["dialogue", "--train", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out")])


def test_the_projects_own_dialogues(tmp_path: Path) -> None:
    folder, _ = prepare(["dialogue", "--output", str(tmp_path / "out"), "--train", "builtin:dialogues"])
    train, heldout = fields(str(folder)), fields(f"{folder}:heldout")
    assert len(train) == 50 and len(heldout) == 12
    assert len({row["prompt"] for row in [*train, *heldout]}) == 62
    assert sum(len(row["rejected"]) > len(row["chosen"]) for row in train) >= 15  # it is not length alone
    with pytest.raises(UserError, match="builtin:dialogue: there is no such set; .*did you mean builtin:dialogues:te"):
        prepare(["dialogue", "--output", str(tmp_path / "other"), "--train", "builtin:dialogue"])

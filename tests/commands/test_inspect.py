"""`sparsepo inspect` as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from sparsepo_dist.commands.main import main
from tests.support.tiny import tiny_tokenizer, write_pairs


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a tokenizer, and neither a configuration nor weights."""
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sparsepo", "inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


ROWS = (
    {"prompt": "one?", "chosen": " yes", "rejected": " yes, but no", "chosen_score": 2, "rejected_score": 2},
    {"prompt": "two?", "chosen": "\x1b[31mab", "rejected": " no", "chosen_score": 1, "rejected_score": 3},
    {"prompt": "one?", "chosen": " yes, but no", "rejected": " never", "chosen_score": 3, "rejected_score": 1},
    {"prompt": "bad?", "chosen": "", "rejected": " no"},
)


def test_numbers_tables_and_figure_without_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", *ROWS)
    heldout = write(tmp_path / "heldout.jsonl", ROWS[1], {"prompt": "one?", "chosen": "x", "rejected": "y"})
    limits = ("--data.max_prompt_length", 3, "--data.max_length", 9)
    out = tmp_path / "new" / "folder"
    data = ("--model.path", model, "--data.train", train, "--data.heldout", heldout, "--data.on_bad_row", "skip")
    assert run(monkeypatch, *data, *limits, "--data.show", 2, "--output", out) == 0
    text, found = capsys.readouterr().out, json.loads((out / "inspect.json").read_text())

    assert found["sources"][0]["rows"] == 4 and found["sources"][0]["bad_rows"] == 1
    assert found["sources"][0]["reasons"][0]["first"].endswith("row 4: chosen is empty")
    part = found["train"]
    assert part["pairs"] == 3 and part["tokens"]["chosen"]["p100"] == len(" yes, but no") + 1
    assert part["repetitions"]["prompts_again"] == 1 and part["repetitions"]["contradicted_pairs"] == 2
    assert part["sides"]["shared_first_tokens"] == {"pairs": 2, "mean": (4 + 0 + 1) / 3}
    assert (part["scores"]["ties"], part["scores"]["negative"], part["scores"]["gap"]["p100"]) == (1, 1, 2)
    assert part["limits"][0]["prompts"] == {"cut": 3, "of": 3, "mean_tokens": 1, "most_tokens": 1}
    assert part["limits"][-1]["pairs"] == 0
    assert found["leakage"] == {"pairs": 2, "prompts_in_train": 2, "pairs_in_train": 1} and found["stops"] == []

    shown, tables = text.split("## Rows")
    assert "train.jsonl, row 1: " in shown and "row 2: " in shown and "row 3: " not in shown
    assert "\u27e61 tokens cut\u27e7ne?" in shown and "\u27e6</s> EOS\u27e7" in shown
    assert "\\x1b[31m" in shown and "\x1b" not in text
    assert (out / "table.md").read_text() in f"## Rows{tables}"
    height, width, _ = matplotlib.image.imread(out / "figure.png").shape
    assert width > 1.5 * height, "three columns where there are scores"


def test_a_long_run_of_heldout_pairs_is_taken_off_the_end(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", 12)
    data = ("--model.path", model, "--data.train", pairs, "--data.heldout_pairs", 5, "--output", tmp_path)
    assert run(monkeypatch, *data) == 0
    found = json.loads((tmp_path / "inspect.json").read_text())
    assert (found["train"]["pairs"], found["heldout"]["pairs"]) == (7, 5)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "1 bad rows (data.on_bad_row: stop), the first: "),
        (("--data.on_bad_row", "skip", "--data.on_long", "stop", "--data.max_length", 9), "3 pairs are longer"),
        (("--data.max_length", 4, "--data.max_prompt_length", 4), "leave nothing to tell apart in 3 pairs"),
        (("--data.max_length", 4, "--data.on_long", "drop"), "no usable pair is left"),
    ],
)
def test_data_that_a_run_would_refuse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path,
    arguments: tuple[object, ...], why: str,
) -> None:  # fmt: skip
    train = write(tmp_path / "train.jsonl", *ROWS)
    assert run(monkeypatch, "--model.path", model, "--data.train", train, *arguments) == 1
    assert why in capsys.readouterr().out.split("## A run with these options would stop")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data.show", -1), "data.show: -1 must not be negative"),
        (("--output", ""), "output: it is empty"),
        (("--output", "/dev/null/x"), "output: /dev/null/x cannot be written: Not a directory"),
        (("--data.train", "builtin:nothing"), "builtin:nothing is not built in"),
        (("--model.path", "/proc/no"), "model.path /proc/no: no tokenizer could be loaded"),
        (("--data.heldout_pairs", 12), "leaves no training pair of 12"),
    ],
)
def test_mistakes_are_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path,
    arguments: tuple[object, ...], words: str,
) -> None:  # fmt: skip
    pairs = write_pairs(tmp_path / "pairs.jsonl", 12)
    given = {"--model.path": model, "--data.train": pairs, **dict([arguments])}
    assert run(monkeypatch, *(word for both in given.items() for word in both)) == 2
    assert words in capsys.readouterr().err


def test_an_objective_without_rejected_responses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", 12)
    assert run(monkeypatch, "--model.path", model, "--data.train", pairs, "--objective.name", "sft") == 0
    shown = capsys.readouterr().out
    assert "chosen: " in shown and "rejected: " not in shown and "equally long" not in shown

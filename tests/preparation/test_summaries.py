"""`sparsepo prepare summaries` on rows of openai/summarize_from_feedback's schema."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsepo_dist.data.reading.sources import Row, read_rows
from sparsepo_dist.errors import UserError
from sparsepo_dist.preparation.command import prepare

INFO = pa.struct([(name, pa.string()) for name in ("id", "post", "title", "subreddit", "site", "article")])
SUMMARY = [(name, pa.string()) for name in ("text", "policy", "note")]
ORIGIN = [(name, pa.string()) for name in ("worker", "batch", "split")]
COMPARISONS = pa.schema([
    ("info", INFO), ("summaries", pa.list_(pa.struct(SUMMARY))), ("choice", pa.int32()), *ORIGIN,
    ("extra", pa.struct([("confidence", pa.int32())])),
])  # fmt: skip
AXES = pa.struct([(name, pa.int32()) for name in ("overall", "accuracy", "coverage", "coherence", "compatible")])
AXIS = pa.schema([("info", INFO), ("summary", pa.struct([*SUMMARY, ("axes", AXES)])), *ORIGIN])
"""Of the hub's Parquet files."""
LONG = " word" * 130


def info(name: str, *, article: bool = False) -> dict[str, Any]:
    text = f"The text of {name}."
    if article:
        return {"id": name, "post": None, "title": name, "subreddit": None, "site": "cnndm", "article": text}
    return {"id": name, "post": text, "title": name, "subreddit": "books", "site": None, "article": None}


def comparison(name: str, first: str, second: str, choice: int = 0, **told: Any) -> dict[str, Any]:
    summaries = [{"text": first, "policy": "ref", "note": None}, {"text": second, "policy": "sup4", "note": None}]
    return {"info": info(name, **told), "summaries": summaries, "choice": choice, "worker": "w", "batch": "batch3",
            "split": "train", "extra": {"confidence": None}}  # fmt: skip


def rating(name: str, text: str, overall: int | None, policy: str = "sup4", **told: Any) -> dict[str, Any]:
    axes = {"overall": overall, "accuracy": 3, "coverage": None, "coherence": None, "compatible": None}
    return {"info": info(name, **told), "summary": {"text": text, "policy": policy, "note": None, "axes": axes},
            "worker": "w", "batch": "axis1", "split": "valid1"}  # fmt: skip


def branch(folder: Path, **changed: list[dict[str, Any]]) -> Path:
    """The set as the hub's Parquet branch has it: a folder for each split of each configuration."""
    parts = {
        "comparisons/train": [comparison(f"t{n}", f" Good {n}", f" Bad {n}", choice=n % 2) for n in range(40)],
        "comparisons/validation": [comparison(f"v{n}", f" Fine {n}", f" Poor {n}") for n in range(20)],
        "axis/validation": [
            rating(f"r{n}", text, score, policy)
            for n in range(30)
            for text, score, policy in ((" Best", 7, "ref"), (" Middle", 4, "sup4"), (" Worst", 1, "sup4"))
        ],
        "axis/test": [rating("r0", " Worse than all", 0)],
    }
    for part, rows in {**parts, **changed}.items():
        (folder / part).mkdir(parents=True)
        schema = COMPARISONS if part.startswith("comparisons") else AXIS
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / part / "0000.parquet")
    return folder


def prepared(source: Path, output: Path, *options: str) -> Path:
    return prepare(["summaries", "--source", str(source), "--output", str(output), *options])[0]


def fields(source: str) -> list[Any]:
    return [row.fields for row in read_rows(source) if isinstance(row, Row)]


def steps(folder: Path) -> dict[str, tuple[int, int]]:
    found = json.loads((folder / "card.json").read_text())["steps"]
    return {step["said"]: (step["before"], step["after"]) for step in found}


def post(name: str) -> str:
    return f"SUBREDDIT: r/books\n\nTITLE: {name}\n\nPOST: The text of {name}.\n\nTL;DR:"


def test_pairs_and_what_was_left_out(tmp_path: Path) -> None:
    odd = [
        comparison("a", " One", f" One{LONG}"), comparison("b", " Same", "Same"), comparison("c", " One", "  "),
        comparison("d", "No space", " Other", choice=1), comparison("e", " One", " Two", article=True),
    ]  # fmt: skip
    rated = [
        rating("f", " Twice", 7), rating("f", " Twice", 1), rating("f", " Six", 6), rating("f", " Three", 3),
        rating("g", " Alike", 4), rating("g", " As good", 4), rating("h", " Alone", 6), rating("h", " Unrated", None),
        rating("i", " Long", 1), rating("i", f" Long{LONG}", 6), rating("j", " One", 7, article=True),
    ]  # fmt: skip
    source = branch(tmp_path / "set", **{"comparisons/train": odd, "axis/validation": rated, "axis/test": rated[:1]})
    folder = prepared(source, tmp_path / "out", "--heldout_pairs", "1")
    assert fields(str(folder)) == [
        {"prompt": post("d"), "chosen": " Other", "rejected": " No space"},
        {"prompt": post("f"), "chosen": " Six", "rejected": " Three"},  # the other has (7 + 1 + 7) / 3
    ]
    told = steps(folder)
    assert told["comparisons:train: about Reddit posts, not news articles"] == (5, 4)
    assert told["comparisons:train: neither summary is blank"] == (4, 3)
    assert told["comparisons:train: summaries differ"] == (3, 2)
    assert told["comparisons:train: lengths differ by 100 words at most"] == (2, 1)
    assert told["axis: with an overall rating"] == (11, 10)
    assert told["axis: with two summaries of different ratings"] == (4, 2)
    assert told["axis: lengths differ by 100 words at most"] == (2, 1)
    assert fields(f"{folder}:sft")[0] == {"prompt": post("d"), "completion": " Other"}
    assert fields(f"{folder}:idf")[0] == {"summary": "Other"}


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    folder = prepared(branch(tmp_path / "set [1]"), tmp_path / "out")
    assert len(fields(str(folder))) > 40


def test_drawn_by_seed_and_no_post_on_both_sides(tmp_path: Path) -> None:
    source = branch(tmp_path / "set")
    sizes = ("--train_pairs", "12", "--heldout_pairs", "6", "--posts", "5")
    folders = [prepared(source, tmp_path / f"out{seed}-{n}", *sizes, "--seed", seed) for seed in "01" for n in "ab"]
    first, again, other, _ = (hashlib.sha256((one / "train.jsonl").read_bytes()).hexdigest() for one in folders)
    assert first == again != other
    for folder in folders:
        train, heldout = fields(str(folder)), fields(f"{folder}:heldout")
        assert len(train) == 24 and len({row["prompt"] for row in train}) == 24
        posts = {row["prompt"] for row in heldout}
        assert not posts & {row["prompt"] for row in train}
        assert sum("v" in row["prompt"].split("TITLE: ")[1][:1] for row in heldout) == 6
        assert len(heldout) == 6 + min(6, steps(folder)["held-out pairs of rated summaries: drawn, 6 asked for"][0])
        asked = fields(f"{folder}:prompts")
        assert len(asked) == 5 and all(row["summary"].startswith(("Fine", "Best")) for row in asked)
        assert not {row["prompt"] for row in asked} & {row["prompt"] for row in train}


def test_comparisons_follow_the_side_of_a_post_with_ratings(tmp_path: Path) -> None:
    """Rated summaries are of posts that the held-out comparisons have, too."""
    shared = [comparison(f"r{n}", f" Fine {n}", f" Poor {n}") for n in range(30)]
    source = branch(tmp_path / "set", **{"comparisons/validation": shared})
    folder = prepared(source, tmp_path / "out", "--train_pairs", "100", "--heldout_pairs", "50", "--posts", "3")
    train = {row["prompt"] for row in fields(str(folder))}
    heldout = [row["prompt"] for row in fields(f"{folder}:heldout")]
    assert len(train) == 40 + 30 - len(set(heldout)) and not train & set(heldout)
    assert len(heldout) == 2 * len(set(heldout)) and 3 <= len(set(heldout)) <= 17  # a third of 30, by seed


def test_fewer_than_asked_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = prepared(branch(tmp_path / "set"), tmp_path / "out", "--posts", "2")
    assert "training comparisons: there are 40 pairs, fewer than the 20000 asked for; all are taken" in caplog.text
    assert steps(folder)["training comparisons: drawn, 20,000 asked for"] == (40, 40)
    assert "posts to summarise" not in caplog.text


@pytest.mark.parametrize(
    ("part", "bad", "message"),
    [
        ("comparisons/train", {"prompt": "Hi", "chosen": "A", "rejected": "B"},
         r"field 'info' is missing \(there is prompt, chosen, rejected\); expected rows of openai/summarize_from_feed"),
        ("comparisons/train", {**comparison("a", " A", " B"), "choice": 2}, "choice must be 0 or 1, found 2; expected"),
        ("comparisons/train", {**comparison("a", " A", " B"), "info": {"id": "a"}}, r"info\.subreddit must be text"),
        ("axis/validation", comparison("a", " A", " B"), "field 'summary' is missing .*; expected rows of openai/summ"),
    ],
)  # fmt: skip
def test_rows_of_another_schema(tmp_path: Path, part: str, bad: dict[str, Any], message: str) -> None:
    source = branch(tmp_path / "set")
    good = comparison("a", " A", " B") if part.startswith("comparisons") else rating("a", " A", 3)
    (source / part / "0000.parquet").unlink()
    (source / part / "rows.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(UserError, match=rf"--source .*rows\.jsonl, row 2: {message}"):
        prepared(source, tmp_path / "out")


def test_the_projects_own_posts(tmp_path: Path) -> None:
    folder = prepared(Path("builtin:posts"), tmp_path / "out", "--train_pairs", "22", "--heldout_pairs", "14")
    train, heldout, asked = (fields(f"{folder}:{name}") for name in ("train", "heldout", "prompts"))
    assert len(train) + len(heldout) == 42 and len(heldout) >= 14 and len(asked) >= 14
    for row in [*train, *heldout]:
        good, bad = row["chosen"].split(), row["rejected"].split()
        assert 5 < len(good) < 45 and 2 < len(bad) < 80
    assert sum(len(row["rejected"]) > len(row["chosen"]) for row in train) >= len(train) / 5  # it is not length alone

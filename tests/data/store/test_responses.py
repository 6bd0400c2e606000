"""Rows of several responses: what an objective that needs no rejected ones takes of them, and how many are too many."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.data.store.workers import MOST_PAIRS
from sparsepo_dist.errors import UserError
from tests.data.store.sources import good, templated, write

LONG = "s" * 70


def test_a_chosen_response_is_trained_on_once_whatever_is_rejected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"prompt": "one", "chosen": [" yes", " sure"], "rejected": [" no", " never", " not"]},
        {"prompt": "two", "chosen": " yes", "rejected": LONG},
        {"prompt": "three", "chosen": " yes", "rejected": " no", "chosen_score": 1, "rejected_score": 3},
    ]
    alone = [
        {"prompt": row["prompt"], "completion": one}
        for row in rows
        for one in (row["chosen"] if isinstance(row["chosen"], list) else [row["chosen"]])
    ]
    source, completions = write(tmp_path / "pairs.jsonl", list(rows)), write(tmp_path / "alone.jsonl", list(alone))
    config = DataConfig(max_length=32, on_long="drop", workers=1)
    caplog.set_level(logging.WARNING)
    found = load_tokenized(source, templated(), config, needs_rejected=False, progress=True)
    assert list(found) == list(load_tokenized(completions, templated(), config, needs_rejected=False))
    assert (found.rows, len(found)) == (3, 4) and "left out" not in caplog.text
    assert len(load_tokenized(source, templated(), config)) == 6 + 1


def test_rejected_responses_make_no_bad_row_where_none_is_needed(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"prompt": "p", "chosen": f"{LONG} a", "rejected": f"{LONG} b"}])
    config = DataConfig(max_length=32, workers=1)
    assert len(load_tokenized(source, templated(), config, needs_rejected=False)) == 1
    with pytest.raises(UserError, match="the same 31 tokens after truncation"):
        load_tokenized(source, templated(), config)


def test_an_empty_prompt_keeps_all_chosen_responses_or_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"prompt": "", "chosen": [" yes", " sure"], "rejected": " no"}])
    found = load_tokenized(source, templated(), DataConfig(add_bos=True, workers=1), needs_rejected=False)
    assert [pair.prompt_ids for pair in found] == [(256,)] * 2 and len({pair.chosen_ids for pair in found}) == 2
    with pytest.raises(UserError, match="the prompt is empty"):
        load_tokenized(source, templated(), DataConfig(workers=1), needs_rejected=False)


def test_a_row_of_too_many_pairs_is_a_bad_row(tmp_path: Path) -> None:
    count = MOST_PAIRS // 64 + 1
    many = {"prompt": "p", "chosen": [f"a{i}" for i in range(64)], "rejected": [f"b{i}" for i in range(count)]}
    source = write(tmp_path / "rows.jsonl", [good(1), many])
    words = (
        f"row 2: 64 chosen and {count} rejected responses make {64 * count} pairs, where a row may make {MOST_PAIRS}"
    )
    with pytest.raises(UserError, match=words):
        load_tokenized(source, templated(), DataConfig(workers=1))
    assert len(load_tokenized(source, templated(), DataConfig(workers=1, on_bad_row="skip"))) == 1
    assert len(load_tokenized(source, templated(), DataConfig(workers=1), needs_rejected=False)) == 1 + 64
    most = write(tmp_path / "most.jsonl", [{**many, "rejected": many["rejected"][1:]}])
    assert len(load_tokenized(most, templated(), DataConfig(workers=1))) == MOST_PAIRS

"""What makes token ids anew, and what does not."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store import key as keys
from sparsepo_dist.data.store import load
from sparsepo_dist.data.store.load import load_tokenized
from tests.data.store.sources import DATED, TEMPLATE, good, templated, write
from tests.support.tiny import write_pairs


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The source of each time that token ids were made."""
    sources: list[str] = []
    build = load.build

    def counted(folder: Path, source: str, *arguments: Any, **options: Any) -> Any:
        sources.append(source)
        return build(folder, source, *arguments, **options)

    monkeypatch.setattr(load, "build", counted)
    return sources


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(write_pairs(tmp_path / "rows.jsonl", 5))


def config(**fields: Any) -> DataConfig:
    return DataConfig(**{"date": "2026-11-30", "workers": 1, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"heldout_pairs": 2}, {"layout": "padded"}, {"tokens_per_micro_batch": 7}, {"workers": 2}, {"show": 3},
        {"date": "2026-12-01"},
    ],
)  # fmt: skip
def test_what_changes_no_token_is_found_again(source: str, built: list[str], fields: dict[str, Any]) -> None:
    first = load_tokenized(source, templated(), config())
    again = load_tokenized(source, templated(), config(**fields))
    assert len(built) == 1 and list(again) == list(first)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_length": 20}, {"max_prompt_length": 3}, {"swap": True}, {"on_long": "drop"}, {"on_bad_row": "skip"},
        {"format": "preference"}, {"columns": {"chosen_score": "chosen_score"}},
    ],
)  # fmt: skip
def test_options_of_rows_and_cuts(source: str, built: list[str], fields: dict[str, Any]) -> None:
    for options in (config(), config(**fields)):
        load_tokenized(source, templated(), options)
    assert len(built) == 2


def test_what_an_objective_needs(source: str, built: list[str]) -> None:
    for needs in ({}, {"scored": True}, {"needs_rejected": False}, {}):
        load_tokenized(source, templated(), config(), **needs)
    assert len(built) == 3


def other_rules(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])


def other_token(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_tokens(["film"])


def other_end(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = "<s>"


def other_template(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = TEMPLATE + " "


@pytest.mark.parametrize("change", [other_rules, other_token, other_end, other_template])
def test_the_tokenizer(source: str, built: list[str], change: Any) -> None:
    load_tokenized(source, templated(), config())
    other = templated()
    change(other)
    load_tokenized(source, other, config())
    assert len(built) == 2


def test_calls_that_cut_or_pad_leave_a_tokenizer_the_same(source: str, built: list[str]) -> None:
    used = templated()
    used(["a", "film"], padding=True, truncation=True, max_length=3)
    for tokenizer in (templated(), used):
        load_tokenized(source, tokenizer, config())
    assert len(built) == 1


def test_the_date_where_the_template_prints_it(source: str, built: list[str]) -> None:
    for date in ("2026-11-30", "2026-11-30", "2026-12-01"):
        load_tokenized(source, templated(DATED), config(date=date))
    assert len(built) == 2


def test_a_file_of_the_same_size_and_time(tmp_path: Path, built: list[str]) -> None:
    path = tmp_path / "rows.jsonl"
    source = write(path, [good(1)])
    (first,) = load_tokenized(source, templated(), config())
    times = path.stat()
    path.write_text(path.read_text().replace("yes", "yep"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (second,) = load_tokenized(source, templated(), config())
    assert len(built) == 2 and first.chosen_ids != second.chosen_ids
    (tmp_path / "other.jsonl").write_text(path.read_text())
    (third,) = load_tokenized(str(tmp_path / "other.jsonl"), templated(), config())
    assert third == second and third.place == f"{tmp_path}/other.jsonl, row 1"


@pytest.mark.parametrize("package", ["transformers", "tokenizers", "jinja2"])
def test_other_versions(source: str, built: list[str], monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    load_tokenized(source, templated(), config())
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == package else version(name))
    load_tokenized(source, templated(), config())
    assert len(built) == 2


def test_other_code(source: str, built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_tokenized(source, templated(), config())
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "pairs.py").write_text("")
    monkeypatch.setattr(keys, "_CODE", tmp_path)
    load_tokenized(source, templated(), config())
    assert len(built) == 2

"""data.swap: chosen and rejected responses, and their scores, change places, and are other data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.data.store.pairs import TokenizedPairs
from sparsepo_dist.errors import UserError
from tests.support.tiny import tiny_tokenizer, write_pairs


def loaded(source: str, **options: bool) -> TokenizedPairs:
    needs = {name: options.pop(name) for name in ("scored", "needs_rejected") if name in options}
    return load_tokenized(source, tiny_tokenizer(), DataConfig(workers=1, **options), **needs)


def test_responses_and_scores_change_places(tmp_path: Path) -> None:
    source = str(write_pairs(tmp_path / "rows.jsonl", 5))
    plain, swapped = loaded(source), loaded(source, swap=True)
    for ours, theirs in zip(plain, swapped, strict=True):
        assert (theirs.prompt_ids, theirs.place) == (ours.prompt_ids, ours.place)
        assert (theirs.chosen_ids, theirs.rejected_ids) == (ours.rejected_ids, ours.chosen_ids)
        assert ours.scores is not None and theirs.scores == ours.scores[::-1]
    assert swapped.fingerprint() != plain.fingerprint()
    assert not set(swapped.keys().tolist()) & set(plain.keys().tolist())  # another reference cache


def test_several_responses_of_a_row(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": [" b", " c"], "rejected": [" d"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    texts = [
        tuple(tiny_tokenizer().decode(ids[:-1]) for ids in (pair.chosen_ids, pair.rejected_ids))
        for pair in loaded(str(tmp_path / "rows.jsonl"), swap=True)
    ]
    assert texts == [(" d", " b"), (" d", " c")]


def test_fine_tuning_is_then_on_the_rejected_responses(tmp_path: Path) -> None:
    source = str(write_pairs(tmp_path / "rows.jsonl", 3))
    tuned = loaded(source, swap=True, needs_rejected=False)
    assert [pair.chosen_ids for pair in tuned] == [pair.rejected_ids for pair in loaded(source)]
    assert all(not pair.rejected_ids for pair in tuned)


def test_rows_without_rejected_responses_have_nothing_to_change_places_with(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": " b"}) + "\n")
    source = str(tmp_path / "rows.jsonl")
    assert len(loaded(source, needs_rejected=False)) == 1
    with pytest.raises(UserError, match=r"have no rejected response, which only the objective sft without data\.swap"):
        loaded(source, swap=True, needs_rejected=False)

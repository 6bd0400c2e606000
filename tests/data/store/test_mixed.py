"""Several sources as one sequence of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.named import source_specs
from sparsepo_dist.data.store.mixed import Mixture, load_mixture
from sparsepo_dist.errors import UserError
from tests.support.tiny import tiny_tokenizer


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, str]:
    """Nine pairs, of ten rows, and twenty."""
    files = []
    for name, count in (("a", 9), ("b", 20)):
        rows = [{"prompt": name, "chosen": f"{number}", "rejected": "no"} for number in range(count)]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows) + ("[]\n" if name == "a" else ""))
    return str(files[0]), str(files[1])


def load(*entries: object, seed: int = 0) -> Mixture:
    config = DataConfig(train=list(entries), on_bad_row="skip", mixture_seed=seed)
    return load_mixture(source_specs("data.train", list(entries)), tiny_tokenizer(), config)


def said(pairs: Mixture | list[TokenizedPair]) -> list[str]:
    """Prompt and chosen response."""
    tokenizer = tiny_tokenizer()
    return [str(tokenizer.decode([*pair.prompt_ids, *pair.chosen_ids[:-1]])) for pair in pairs]


def test_sources_follow_each_other_whole(sources: tuple[str, str]) -> None:
    assert said(load(*sources)) == [*(f"a{n}" for n in range(9)), *(f"b{n}" for n in range(20))]
    assert said(load(sources[1])) == [f"b{n}" for n in range(20)]


def test_a_part_of_a_source_is_drawn_of_its_usable_pairs_and_told(sources: tuple[str, str]) -> None:
    mixture = load(sources[0], {"source": sources[1], "pairs": 6})
    assert said(mixture)[:9] == [f"a{n}" for n in range(9)] and len(set(said(mixture)[9:])) == 6
    assert mixture.origins() == [
        {"source": sources[0], "rows": 10, "pairs": 9, "taken": 9},
        {"source": sources[1], "rows": 20, "pairs": 20, "taken": 6},
    ]
    assert mixture.line() == f"9 of 9 pairs (10 rows) of {sources[0]}; 6 of 20 pairs (20 rows) of {sources[1]}"
    again, other = (said(load(sources[0], {"source": sources[1], "pairs": 6}, seed=seed)) for seed in (0, 1))
    assert again == said(mixture) != other


def test_a_mixture_is_a_sequence(sources: tuple[str, str]) -> None:
    mixture = load({"source": sources[0], "weight": 1}, {"source": sources[1], "weight": 2})
    pairs = list(mixture)
    assert len(mixture) == len(pairs) == 9 + 18
    assert [mixture[place] for place in (0, 8, 9, 26, -1, -27)] == [pairs[place] for place in (0, 8, 9, 26, -1, -27)]
    assert mixture[5:12] == pairs[5:12] and mixture[::-4] == pairs[::-4]
    for place in (27, -28):
        with pytest.raises(IndexError):
            mixture[place]


def test_held_out_pairs_come_off_the_end_of_each_source(sources: tuple[str, str]) -> None:
    train, heldout = load(*sources).split(3)
    assert said(heldout) == ["a8", "b18", "b19"]
    assert said(train) == [*(f"a{n}" for n in range(8)), *(f"b{n}" for n in range(18))]
    assert [part["taken"] for part in train.origins()] == [8, 18]
    whole, nothing = load(*sources).split(0)
    assert len(whole) == 29 and not nothing


def test_more_than_the_usable_pairs_are_refused(sources: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="10 pairs of it are wanted .* 9 are usable"):
        load({"source": sources[0], "pairs": 10})

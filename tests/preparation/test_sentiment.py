"""`sparsepo prepare sentiment` with a tiny model and classifier: prefixes, draws, scores and pairs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparsepo_dist.builtin.rewards import rewards
from sparsepo_dist.errors import RunError, UserError
from sparsepo_dist.evaluation.frontier import scorers
from sparsepo_dist.evaluation.frontier.scorers import Scorer
from sparsepo_dist.preparation import drawing
from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.command import prepare
from sparsepo_dist.preparation.sentiment import completions
from sparsepo_dist.preparation.sentiment.prefixes import Wanted, cut_texts, own_prompts
from sparsepo_dist.sampling.responses import Sample
from tests.support.classifiers import save_tiny_classifier
from tests.support.tiny import save_tiny_model

TEXTS = 40
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a classifier and reviews, the last two too short or twice there."""
    folder = tmp_path_factory.mktemp("sentiment")
    save_tiny_model(folder / "model")
    save_tiny_classifier(folder / "classifier", id2label={0: "NEGATIVE", 1: "POSITIVE"})
    texts = [f"{number:02d}-film that went on." for number in range(TEXTS)] + ["Short", "Short"]
    (folder / "reviews.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def given(folder: Path, output: Path, *more: str) -> Sequence[str]:
    return [
        "sentiment", "--output", str(output), "--texts", str(folder / "reviews.jsonl"),
        "--model", str(folder / "model"), "--scorer", str(folder / "classifier"), "--max_new_tokens", "6", *more,
    ]  # fmt: skip


def rows(file: Path) -> Rows:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def output(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(given(folder, tmp_path_factory.mktemp("prepared") / "data"))[0]


def test_prefixes_are_5_to_8_tokens_and_in_one_split_only(output: Path, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    parts = {
        "train": {row["prompt"] for row in rows(output / "sft.jsonl")},
        "heldout": {row["prompt"] for row in rows(output / "sft_heldout.jsonl")},
        "untouched": {row["prompt"] for row in rows(output / "prompts.jsonl")},
    }
    assert {name: len(part) for name, part in parts.items()} == {"train": 32, "heldout": 4, "untouched": 4}
    everything = set().union(*parts.values())
    assert len(everything) == TEXTS
    assert {len(tokenizer(prompt)["input_ids"]) for prompt in everything} == {5, 6, 7, 8}
    for name in ("train", "heldout"):
        assert {row["prompt"] for row in rows(output / f"{name}.jsonl")} <= parts[name]
    sft = rows(output / "sft.jsonl")[0]
    assert (sft["prompt"] + sft["completion"]).endswith("film that went on.")


def test_scores_are_the_papers_and_rank_each_pair(output: Path, folder: Path) -> None:
    """score = p of the predicted label where that is positive, else 1 - p, of prefix and completion as one text."""
    classifier = AutoModelForSequenceClassification.from_pretrained(folder / "classifier").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "classifier")
    pairs = rows(output / "train.jsonl")
    assert len(pairs) > 20
    for row in pairs[:5]:
        for side in ("chosen", "rejected"):
            with torch.no_grad():
                logits = classifier(**tokenizer(row["prompt"] + row[side], return_tensors="pt")).logits[0]
            p, label = logits.softmax(-1).max(-1)
            assert row[f"{side}_score"] == pytest.approx(float(p if label == 1 else 1 - p), abs=1e-5)
        assert row["chosen_score"] > row["rejected_score"]


def test_the_card_counts_all_that_was_left_out(output: Path) -> None:
    card = json.loads((output / "card.json").read_text())
    steps = {step["said"]: (step["before"], step["after"]) for step in card["steps"]}
    assert steps["different texts"] == (TEXTS + 2, TEXTS + 1)
    assert steps["of more than 8 tokens"] == (TEXTS + 1, TEXTS)
    assert steps["train: not blank"][0] == 64
    assert steps["train: scores are no tie, nor completions the same"][1] == len(rows(output / "train.jsonl"))
    assert card["settings"]["seed"] == 0 and len(card["sources"]["--model"]["sha256"]) == 64


def test_the_seed_decides_everything(folder: Path, tmp_path: Path) -> None:
    few = "--prompts", "4", "--heldout_prompts", "2"
    one, _ = prepare(given(folder, tmp_path / "one", *few))
    again, _ = prepare(given(folder, tmp_path / "again", *few))
    other, _ = prepare(given(folder, tmp_path / "other", *few, "--seed", "1"))
    for name in ("train.jsonl", "heldout.jsonl", "prompts.jsonl", "sft.jsonl"):
        assert (again / name).read_bytes() == (one / name).read_bytes() != (other / name).read_bytes()


def test_a_text_that_is_there_many_times_is_on_one_side(folder: Path) -> None:
    """Prefixes of other lengths would be other prefixes of the same text."""
    texts = [f"{number:02d}-film that went on." for number in range(6) for _ in range(20)]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prefixes = cut_texts(texts, tokenizer, 0, Card("sentiment", {}, {}, {}))
    assert sorted(prefix.text + prefix.rest for prefix in prefixes) == sorted(set(texts))


def judged(monkeypatch: pytest.MonkeyPatch, score: Callable[[Sample], float]) -> None:
    named = Scorer("by the test", "test", lambda samples: list(map(score, samples)))
    monkeypatch.setattr(scorers, "scorer", lambda *_: named)


def test_the_same_completion_twice_is_no_pair(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier's last digits differ from batch to batch."""
    digits = itertools.count()
    judged(monkeypatch, lambda sample: 0.5 + next(digits) * 1e-9)
    with pytest.raises(UserError, match="train: no two completions of a prompt differ enough in their scores"):
        prepare(given(folder, tmp_path / "data", "--temperature", "0.0001", "--prompts", "4"))


def test_a_scorer_that_gives_no_number(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, lambda sample: math.nan)
    with pytest.raises(RunError, match=r"--scorer gives nan for the response .*: by the test"):
        prepare(given(folder, tmp_path / "data", "--prompts", "4"))


def test_the_projects_own_prompts_more_completions_and_a_kill(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, VADER for a judge: the best of four against the worst, then the second-best against the second-worst."""
    monkeypatch.setattr(completions, "_PROMPTS", 4)
    loads: list[str] = []
    load = drawing.load_sampler

    class Dying:
        def __init__(self, *told: Any) -> None:
            loads.append("model")
            self._sampler, self._left = load(*told), 2 if len(loads) == 1 else 10

        def sample(self, *told: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
            found = self._sampler.sample(*told, **named)
            words = (" good", " great!", " bad", " on Tuesday")
            return [one._replace(response=words[i % 4] * (1 + i // 8)) for i, one in enumerate(found)]

    monkeypatch.setattr(drawing, "load_sampler", Dying)
    told = given(
        folder, tmp_path / "own", "--texts", "builtin:prompts", "--scorer", "vader", "--completions", "4",
        "--pairs_per_prompt", "2", "--prompts", "8", "--heldout_prompts", "2", "--test_prompts", "3",
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        prepare(told)
    prepare(told)
    pairs = rows(tmp_path / "own" / "train.jsonl")
    assert len(pairs) == 16 and len({row["prompt"] for row in pairs}) == 8
    first, second = pairs[:2]
    assert (first["chosen"], first["rejected"]) == (" great!", " bad")
    assert (second["chosen"], second["rejected"]) == (" good", " on Tuesday")
    assert [first["chosen_score"], first["rejected_score"]] == rewards([" great!", " bad"])
    assert [row["prompt"] for row in rows(tmp_path / "own" / "prompts.jsonl")] == [
        prefix.text for prefix in own_prompts(Wanted(8, 2, 3)).untouched
    ]
    assert not (tmp_path / "own" / "sft.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--field", "review"], r"--texts .*reviews\.jsonl, row 1: field 'review' is missing \(there is text\)"),
        (["--prompts", "39"], r"--texts: 40 prefixes are not enough for 39 to train on, 4 held out and 4 left alone"),
        (["--texts", "builtin:prompts", "--heldout_prompts", "99"], r"--heldout_prompts 99: there are 28 such prompts"),
        (["--positive_label", "GOOD"], r"--positive_label GOOD: .* has the labels NEGATIVE, POSITIVE"),
    ],
)
def test_what_cannot_be(folder: Path, tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(given(folder, tmp_path / "data", *more))
    assert not (tmp_path / "data").exists()

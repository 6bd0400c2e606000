"""`make bench-start`: every part of a start is told, once, and all of them are the whole of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

from benchmarks.start import parts_table
from benchmarks.start_worker import FIRST_STEP
from tests.support.runs import ZERO, launch
from tests.support.tiny import save_tiny_model, write_pairs


def test_a_training_is_followed_to_the_end_of_its_first_step(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    write_pairs(tmp_path / "pairs.jsonl", 4)
    (tmp_path / "ds.json").write_text(json.dumps(ZERO[0]))
    fields = {
        "model.path": tmp_path / "model", "data.train": tmp_path / "pairs.jsonl", "data.max_length": 64,
        "training.pairs_per_step": 2, "training.max_steps": 2, "ds_config": tmp_path / "ds.json",
        "output_dir": tmp_path / "run", "objective.name": "dpo",
    }  # fmt: skip
    began = time.time()
    told = {"began": began, "arguments": [f"--{name}={value}" for name, value in fields.items()]}
    done = launch(["benchmarks.start_worker", json.dumps(told)])
    assert done.returncode == 0, done.stderr[-3000:]
    seconds = json.loads(done.stdout.splitlines()[-1])["seconds"]
    assert list(seconds)[:3] == ["the interpreter", "the command line", "torch, transformers, DeepSpeed"]
    assert list(seconds)[-1] == FIRST_STEP and "loading the policy" in seconds
    assert 0 < sum(seconds.values()) <= time.time() - began
    assert not (tmp_path / "run" / "final").exists() and not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_parts_are_medians_of_the_starts_after_the_first() -> None:
    starts = [{"a": 9.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 7.0}]
    assert parts_table(starts) == [
        {"part": "a", "first start, s": 9.0, "again, s": 2.0},
        {"part": "b", "first start, s": 1.0, "again, s": 1.0},
        {"part": "all", "first start, s": 10.0, "again, s": 3.0},
    ]

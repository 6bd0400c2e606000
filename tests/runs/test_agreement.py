"""Ranks that do not agree on what they train end together, with one message that says on what, and who."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.engines.deepspeed.environment import free_port
from tests.support.runs import ROOT, ZERO, launch
from tests.support.tiny import save_tiny_model, tiny_tokenizer, write_pairs
from tests.support.warm import hearth, warm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    for stage in (2, 3):
        (folder / f"zero{stage}.json").write_text(json.dumps(ZERO[stage]))
    write_pairs(folder / "fewer.jsonl", 5)
    write_pairs(folder / "others.jsonl", 8, seed=1)
    save_tiny_model(folder / "other", seed=1)
    save_tiny_model(folder / "speaks_otherwise")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder / "speaks_otherwise")
    return {
        "model.path": save_tiny_model(folder / "model"), "data.train": write_pairs(folder / "pairs.jsonl", 8),
        "data.max_length": 100, "training.pairs_per_step": 4, "training.precision": "fp32",
        "ds_config": folder / "zero3.json", "training.hang_minutes": 1,
    }  # fmt: skip


def start(
    data: dict[str, Any], folder: Path, changes: dict[str, str], versions: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Two ranks, of which the second is told otherwise; `{}` in a value is the folder of the data."""
    base = Path(data["data.train"]).parent
    fields = {**data, "output_dir": folder / "run"}
    told = [
        {"arguments": [f"--{name}={value}" for name, value in {**fields, **own}.items()], "versions": packages}
        for own, packages in (
            ({}, {}), ({name: value.format(base) for name, value in changes.items()}, versions or {}),
        )
    ]  # fmt: skip
    plan = folder / "plan.json"
    plan.write_text(json.dumps(told))
    return launch(["tests.support.apart", str(plan)], ranks=2, timeout=300)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.train": "{}/fewer.jsonl"}, r"data.train is 8 pairs \(\w+\) on rank 0, 5 pairs \(\w+\) on rank 1"),
        ({"data.train": "{}/others.jsonl"}, r"data.train is 8 pairs \(\w+\) on rank 0, 8 pairs \(\w+\) on rank 1"),
        ({"training.learning_rate": "1e-3"}, "training.learning_rate is 1e-06 on rank 0, 0.001 on rank 1"),
        ({"objective.name": "dpo"}, "objective.name is sparsepo on rank 0, dpo on rank 1"),
        ({"ds_config": "{}/zero2.json"}, "ds_config zero_optimization.stage is 3 on rank 0, 2 on rank 1"),
        ({"model.path": "{}/other"}, r"model.path \(contents\) is \w+ on rank 0, \w+ on rank 1"),
        ({"model.path": "{}/speaks_otherwise"}, r"disagree: tokenizer is \w+ on rank 0, \w+ on rank 1"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_another_file_or_option_on_one_rank(
    data: dict[str, Any], tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    assert_refused(start(data, tmp_path, changes), said, tmp_path)


def test_another_version_on_one_rank(data: dict[str, Any], tmp_path: Path) -> None:
    done = start(data, tmp_path, {}, {"transformers": "4.0"})
    assert_refused(done, r"version of transformers is 5\.\S+ on rank 0, 4\.0 on rank 1", tmp_path)


def assert_refused(done: subprocess.CompletedProcess[str], said: str, folder: Path) -> None:
    assert done.returncode != 0
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert re.search(said, message), message
    assert message.startswith("error: ranks disagree: ") and "Start all ranks with the same command" in message
    assert "exitcode  : 2" in done.stderr and done.stderr.count("Traceback") == 1, "torchrun's own"
    assert not (folder / "run").exists()


def test_a_copy_on_each_machine_is_no_disagreement(data: dict[str, Any], tmp_path: Path) -> None:
    """The same model, pairs and ds_config under other names."""
    base = Path(data["data.train"]).parent
    (tmp_path / "pairs.jsonl").write_bytes((base / "pairs.jsonl").read_bytes())
    (tmp_path / "ds.json").write_bytes((base / "zero3.json").read_bytes())
    shutil.copytree(base / "model", tmp_path / "model")
    own = {
        "data.train": f"{tmp_path}/pairs.jsonl", "ds_config": f"{tmp_path}/ds.json", "model.path": f"{tmp_path}/model",
    }  # fmt: skip
    done = start({**data, "training.max_steps": 1}, tmp_path, own)
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_one_rank_alone_has_to_say_is_said(data: dict[str, Any], tmp_path: Path) -> None:
    """Its file is missing: the other one only waits for it."""
    done = start(data, tmp_path, {"data.train": "{}/nowhere.jsonl"})
    assert done.returncode != 0
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1 and messages[0].startswith(f"error: rank 1 on {socket.gethostname()}: ")
    assert "nowhere.jsonl" in messages[0] and "no such file" in messages[0]


def test_one_that_never_comes_is_not_waited_for_without_end(data: dict[str, Any], tmp_path: Path) -> None:
    """A rank of another world: torch alone would wait for half an hour."""
    port = free_port()
    fields = {**data, "training.hang_minutes": 0.05, "output_dir": tmp_path / "run"}
    done = subprocess.run(
        warm("launch/train.py", *(f"--{name}={value}" for name, value in fields.items())),
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, **hearth(), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": port},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-3000:]
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert f"rank 0 of 2 on {socket.gethostname()} waits for the others at 127.0.0.1:{port}" in message
    assert "WORLD_SIZE" in message and not (tmp_path / "run").exists()

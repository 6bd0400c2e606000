"""The command lines of the README: every launcher trains the same, and mistakes end in one message and code 2."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sparsepo_dist.engines.deepspeed.environment import free_port
from tests.support.runs import ROOT, launch
from tests.support.tiny import save_tiny_model, write_pairs
from tests.support.warm import hearth, warm

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("launch")
    save_tiny_model(base / "model")
    write_pairs(base / "pairs.jsonl", 8)
    path = base / "recipe.yaml"
    path.write_text(
        f"model: {{path: {base / 'model'}}}\n"
        f"data: {{train: {base / 'pairs.jsonl'}, max_length: 100, tokens_per_micro_batch: 150}}\n"
        "training: {pairs_per_step: 4, precision: fp32, learning_rate: 0.001}\n"
    )
    return path


def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
        env={**environment, **more, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
             "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_launcher_trains_the_same(recipe: Path, tmp_path: Path) -> None:
    common = ["launch/train.py", "--ds_config", "ds_configs/zero3.json", "--recipe", str(recipe), "--output_dir"]
    launchers = {
        "deepspeed": ["deepspeed", "--master_port", free_port(), *common],
        "torchrun_2": ["torchrun", "--standalone", "--nproc_per_node", "2", *common],
        "python": [sys.executable, *common],
    }
    found = {}
    for name, command in launchers.items():
        done = run([*command, str(tmp_path / name)])
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        assert f"The run is in {tmp_path / name}" in done.stdout
        assert (tmp_path / name / "report" / "index.html").is_file()
        found[name] = losses(tmp_path / name)
    for name in launchers:
        assert found[name] == pytest.approx(found["python"], rel=1e-4), name


def test_help_explains_every_field() -> None:
    done = run([sys.executable, "launch/train.py", "--help"])
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for words in ("--objective.beta BETA", "Strength of the pull", "--model.path PATH", "Model folder or hub id"):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.train", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--model.path", "no/such-model"], "model.path no/such-model"),
        (["--objective.name", "dppo"], "'dppo' is not one of sparsepo"),
        (["--training.learnin_rate", "1"], "learnin_rate"),
        (["--output_dir", "tests"], "tests is not empty"),
    ],
)
def test_mistakes_end_in_one_message(recipe: Path, arguments: list[str], message: str) -> None:
    before = set((ROOT / "runs").glob("*"))
    common = ["launch/train.py", "--recipe", str(recipe), "--ds_config", "ds_configs/zero3.json"]
    done = run(warm(*common, *arguments), **hearth())
    assert done.returncode == 2, done.stderr[-3000:]
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert set((ROOT / "runs").glob("*")) == before


def test_a_taken_port_is_named(recipe: Path, tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        common = ["launch/train.py", "--ds_config", "ds_configs/zero3.json", "--recipe", str(recipe)]
        done = run(["deepspeed", "--master_port", port, *common, "--output_dir", str(tmp_path / "run")])
    assert done.returncode == 1
    assert f"port {port} is taken by another program" in done.stderr and "--master_port" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_a_bad_row_stops_both_ranks_before_they_wait(recipe: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
    arguments = [
        "launch/train.py",
        "--recipe",
        str(recipe),
        "--data.train",
        str(bad),
        "--output_dir",
        str(tmp_path / "o"),
    ]
    done = launch(arguments, ranks=2, timeout=900)
    assert done.returncode != 0
    assert done.stderr.count(f"error: {bad}, row 1: chosen and rejected are equal") == 1
    assert not (tmp_path / "o").exists()

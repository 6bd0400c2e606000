"""A run of tiny models on the nodes, and how tests start it."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.nodes import Nodes

TRAIN = "launch/train.py"
SHAPES = {"pythia": ("gpt_neox", ""), "gptj": ("gptj", "--model.adapter=qlora --masks.layers=last")}


def options(data: Path, output: Path, shape: str = "pythia", **changes: object) -> str:
    """Of a run of three steps of four pairs."""
    family, more = SHAPES[shape]
    given = {
        "ds_config": "ds_configs/zero3.json" if shape == "pythia" else "ds_configs/zero2.json",
        "model.path": data / family, "data.train": data / "pairs.jsonl", "data.max_length": 96,
        "training.pairs_per_step": 4, "training.max_steps": 3, "training.precision": "fp32", "training.seed": 3,
        "training.learning_rate": 1e-3, "training.warmup_ratio": 0, "output_dir": output, **changes,
    }  # fmt: skip
    return " ".join([more, *(shlex.quote(f"--{name}={value}") for name, value in given.items())])


def losses(run: Path) -> list[float]:
    """Of each step, in order; a step that was done again counts as it was then."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return list(
        {row["step"]: row["loss"] for row in rows if row.get("split", "train") == "train" and "loss" in row}.values()
    )


def torchrun(nodes: Nodes, said: str, ranks: int = 1) -> list[subprocess.Popen[str]]:
    """Ranks on both nodes."""
    words = (
        f"torchrun --nnodes=2 --nproc_per_node={ranks} --rdzv_backend=c10d --rdzv_id=run "
        f"--rdzv_endpoint=10.77.0.1:29411 --max_restarts=0 {TRAIN} {said}"
    )
    return [nodes.popen(node, words) for node in (1, 2)]


def ended(processes: list[subprocess.Popen[str]], seconds: float = 240) -> list[tuple[int, str]]:
    """Exit code and output of each; fails where one goes on."""
    found = []
    for process in processes:
        try:
            said = process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"still there after {seconds} s: {process.communicate()[0][-3000:]}") from None
        found.append((process.returncode, said))
    return found


def until(happened: Callable[[], bool], processes: list[subprocess.Popen[str]], seconds: float = 120) -> None:
    """Wait until something has happened; fails where it does not, or all processes have ended before."""
    end = time.monotonic() + seconds
    while not happened():
        over = all(process.poll() is not None for process in processes)
        if over or time.monotonic() > end:
            said = "\n".join(process.communicate()[0][-2000:] for process in processes if process.poll() is not None)
            raise AssertionError(f"it did not happen{', and the run has ended' if over else ''}: {said}")
        time.sleep(0.05)


def steps(run: Path) -> int:
    """How many a run has logged."""
    file = run / "metrics.jsonl"
    return len(losses(run)) if file.is_file() else 0

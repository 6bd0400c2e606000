"""Real runs in real ranks: a worker that trains what a JSON file describes, and how tests launch it.

One launch can hold several runs: importing DeepSpeed costs more than training a tiny model.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.commands.entry import guarded
from sparsepo_dist.runs.parsing import parse_train
from tests.support.warm import hearth, warm

VOLATILE = ("tokens_per_second", "seconds", "imbalance")
ROOT = Path(__file__).resolve().parents[2]
ZERO = {
    stage: {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0} if stage else {"stage": 0},
    }
    for stage in range(4)
}


def launch(
    arguments: list[str], *, ranks: int = 1, timeout: int = 900, options: Sequence[str] = (), cold: bool = False
) -> subprocess.CompletedProcess[str]:
    """`torchrun` of a module or a script with its arguments, one thread a rank; output is kept for the assertion's
    message. Cold ranks are no forks: their memory is their own."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), *options]
    return subprocess.run(
        warm(*torchrun, "-m", "tests.support.warm", *arguments),
        cwd=ROOT,
        env={**os.environ, **({} if cold else hearth()), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def train_all(folder: Path, runs: dict[str, dict[str, Any]], *, ranks: int = 1, timeout: int = 900) -> dict[str, Path]:
    """Train every named run (dotted field to value; `ds_config` may be a dictionary); name to run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    commands = {}
    for name, fields in runs.items():
        fields = {**fields, "output_dir": str(folder / name)}
        if isinstance(fields.get("ds_config"), dict):
            ds_config = folder / f"{name}.ds.json"
            ds_config.write_text(json.dumps(fields["ds_config"]))
            fields["ds_config"] = str(ds_config)
        commands[name] = [f"--{field}={value}" for field, value in fields.items()]
    plan = folder / "plan.json"
    plan.write_text(json.dumps(commands))
    done = launch(["tests.support.runs", str(plan)], ranks=ranks, timeout=timeout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return {name: folder / name for name in runs}


def metrics(run: Path) -> list[dict[str, Any]]:
    """Numbers of metrics.jsonl without what the machine's speed and the number of ranks decide."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name not in VOLATILE and not isinstance(value, list)}
        for row in rows
    ]


def assert_same_curve(run: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Every metric of every step within a tolerance: of itself, or absolutely, for differences of sums near 0."""
    for got, want in zip(metrics(run), metrics(other), strict=True):
        assert got.pop("split") == want.pop("split")
        assert got == pytest.approx(want, rel=tolerance, abs=tolerance), f"step {want['step']}"


def main() -> None:
    """The worker: every run of the plan in turn, in this process."""
    from sparsepo_dist.runs.run import run

    gc.freeze()  # DeepSpeed collects garbage several times a run, most of the time over imported objects
    for arguments in json.loads(Path(sys.argv[1]).read_text()).values():
        run(parse_train(arguments))


if __name__ == "__main__":
    sys.exit(guarded(main))

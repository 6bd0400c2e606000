"""A run that is killed at random again and again ends as one that was left alone.

    python -m benchmarks.soak --model FOLDER --data PAIRS.jsonl --output FILE.json [--kills 20] [--steps 400]

Trains twice with the same settings on two ranks, ZeRO-3, dropout on: once undisturbed, once with kills at random
moments, each followed by a start with `--resume auto`. Every line of both metrics files and every weight must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from benchmarks.measure import describe
from sparsepo_dist.training.checkpoints.store import CheckpointStore

RANKS = 2
START_SECONDS = 20  # until a start trains
ROOT = Path(__file__).resolve().parents[1]
VOLATILE = ("tokens_per_second", "seconds")
KINDS = {
    "kill -9 of one rank": 0.6,
    "kill -9 of all ranks and the launcher": 0.2,
    "SIGTERM to all ranks": 0.2,
}
SETTINGS = {
    "data.max_length": 256, "data.max_prompt_length": 192, "data.tokens_per_micro_batch": 512,
    "data.on_bad_row": "skip",
    "training.pairs_per_step": 8, "training.learning_rate": 1e-4, "training.precision": "fp32",
    "model.disable_dropout": False, "masks.dropout": 0.1, "training.epochs": 100, "checkpoints.every_steps": 5,
    "training.hang_minutes": 3, "resume": "auto",
}  # fmt: skip


def start(arguments: argparse.Namespace, run: Path, log: Path) -> subprocess.Popen[bytes]:
    """Two ranks that train in `run`, in a process group of their own."""
    fields = {
        **SETTINGS, "model.path": arguments.model, "data.train": arguments.data, "output_dir": run,
        "training.max_steps": arguments.steps, "ds_config": ROOT / "ds_configs" / "zero3.json",
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(RANKS)]
    command += [str(ROOT / "launch" / "train.py"), *(f"--{name}={value}" for name, value in fields.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)


def ranks_of(launcher: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of the ranks that a launcher has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return [int(pid) for pid in children.read_text().split()] if children.is_file() else []


def disturb(launcher: subprocess.Popen[bytes], kind: str, dice: random.Random) -> None:
    """One kill; returns when no process is left."""
    while len(ranks := ranks_of(launcher)) < RANKS and launcher.poll() is None:
        time.sleep(0.1)
    if kind == "kill -9 of one rank":
        _signal(dice.choice(ranks), signal.SIGKILL)
    elif kind == "SIGTERM to all ranks":
        for pid in ranks:
            _signal(pid, signal.SIGTERM)
    else:
        _signal(launcher.pid, signal.SIGKILL)
        for pid in ranks:
            _signal(pid, signal.SIGKILL)
    launcher.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        time.sleep(0.1)


def complete_steps(run: Path) -> list[int]:
    """Steps of a run's complete checkpoints, the newest first."""
    return [checkpoint.step for checkpoint in CheckpointStore(run / "checkpoints").complete()]


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def soak(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What happened, and whether both runs ended alike."""
    dice = random.Random(arguments.seed)
    began = time.monotonic()
    whole, killed = folder / "undisturbed", folder / "killed"
    if start(arguments, whole, folder / "undisturbed.log").wait() != 0:
        raise SystemExit(f"the undisturbed run failed: see {folder / 'undisturbed.log'}")
    undisturbed_seconds = time.monotonic() - began
    events = []
    per_step = undisturbed_seconds / arguments.steps
    for kill in tqdm(range(arguments.kills), desc="kills", unit="kill"):
        process = start(arguments, killed, folder / "killed.log")
        kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
        # A share of the work that is left, so that the run outlasts its kills.
        left = (arguments.steps - max(complete_steps(killed), default=0)) * per_step / (arguments.kills - kill + 1)
        delay = dice.uniform(1, left + START_SECONDS)
        try:
            if process.wait(timeout=delay) != 0:
                raise SystemExit(f"a start failed: see {folder / 'killed.log'}")
            break  # it came to its end first
        except subprocess.TimeoutExpired:
            disturb(process, kind, dice)
        steps = complete_steps(killed)
        events.append({"after_seconds": round(delay, 1), "kind": kind, "complete_checkpoints": steps})
    code = start(arguments, killed, folder / "killed.log").wait()
    return {
        **describe(torch.device("cpu")),
        "settings": {name: str(value) for name, value in {**SETTINGS, "training.max_steps": arguments.steps}.items()},
        "kills": events,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "last_exit_code": code,
        "metrics_equal": _metrics(whole) == _metrics(killed),
        "weights_equal": _equal_weights(whole / "final", killed / "final"),
    }


def _metrics(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in VOLATILE} for row in rows]


def _equal_weights(first: Path, second: Path) -> bool:
    files = sorted(file.name for file in first.glob("*.safetensors"))
    if not files or files != sorted(file.name for file in second.glob("*.safetensors")):
        return False
    for name in files:
        expected, found = load_file(first / name), load_file(second / name)
        if expected.keys() != found.keys() or not all(torch.equal(expected[key], found[key]) for key in expected):
            return False
    return True


def main() -> None:
    """Run the soak; exit code 1 if the killed run is not the other one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="folder of a small model")
    parser.add_argument("--data", required=True, type=Path, help="preference pairs")
    parser.add_argument("--output", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sparsepo-soak-"))
    result = soak(arguments, folder)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    good = result["metrics_equal"] and result["weights_equal"] and result["last_exit_code"] == 0
    good = good and len(result["kills"]) == arguments.kills
    equal = {name: "equal" if result[f"{name}_equal"] else "DIFFER" for name in ("metrics", "weights")}
    print(f"{len(result['kills'])} kills in {result['minutes']} minutes: {equal}")
    if not good:
        sys.exit(f"the runs and their logs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

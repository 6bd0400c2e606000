"""A run that is killed at random again and again ends as one that was left alone.

    python -m benchmarks.soak --model DIR --data PAIRS.jsonl --output FILE.json [--kills 20] [--steps 400] [--nodes 2]

Trains twice with the same settings on two ranks a node, ZeRO-3, dropout on: once undisturbed, once with kills at random
moments, each that ended it followed by a start with `--resume auto`. Every line of both metrics files and every weight
must be equal. With `--nodes 2` the ranks are on two nodes, namespaces of this machine with a network between them that
is cut as well; this needs root. The file says of every kill how each rank ended, and what it said.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from benchmarks.disturbance.kills import HANG_MINUTES, carry_out, planned
from benchmarks.disturbance.nodes import Nodes, two_nodes
from benchmarks.disturbance.start import ROOT, Start
from benchmarks.measure import describe
from sparsepo_dist.training.checkpoints.store import CheckpointStore

VOLATILE = ("tokens_per_second", "seconds")
SETTINGS = {
    "data.max_length": 256, "data.max_prompt_length": 192, "data.tokens_per_micro_batch": 512,
    "data.on_bad_row": "skip",
    "training.pairs_per_step": 8, "training.learning_rate": 1e-4, "training.precision": "fp32",
    "model.disable_dropout": False, "masks.dropout": 0.1, "training.epochs": 100, "checkpoints.every_steps": 5,
    "training.hang_minutes": HANG_MINUTES, "resume": "auto",
}  # fmt: skip


def start(arguments: argparse.Namespace, run: Path, nodes: Nodes | None) -> Start:
    """The ranks that train in `run`; what they say is in a folder beside it, one for each start."""
    fields = {
        **SETTINGS, "model.path": arguments.model, "data.train": arguments.data, "output_dir": run,
        "training.max_steps": arguments.steps, "ds_config": ROOT / "ds_configs" / "zero3.json",
    }  # fmt: skip
    logs = run.parent / f"{run.name}-logs"
    number = len(list(logs.iterdir())) if logs.is_dir() else 0
    return Start([f"--{name}={value}" for name, value in fields.items()], logs / f"start-{number}", nodes)


def complete_steps(run: Path) -> list[int]:
    """Steps of a run's complete checkpoints, the newest first."""
    return [checkpoint.step for checkpoint in CheckpointStore(run / "checkpoints").complete()]


def left_alone(arguments: argparse.Namespace, run: Path, nodes: Nodes | None) -> tuple[float, float]:
    """Train undisturbed: seconds until the first step, and seconds of a step.

    Raises:
        SystemExit: it failed.
    """
    began = time.monotonic()
    started = start(arguments, run, nodes)
    started.trains(run / "metrics.jsonl")
    first = time.monotonic() - began
    started.await_end()
    if any(started.codes()):
        raise SystemExit(f"the undisturbed run failed: {started.codes()}, {started.said()}")
    return first, (time.monotonic() - began - first) / arguments.steps


def soak(arguments: argparse.Namespace, folder: Path, nodes: Nodes | None) -> dict[str, Any]:
    """What happened, and whether both runs ended alike."""
    dice = random.Random(arguments.seed)
    began = time.monotonic()
    whole, killed = folder / "undisturbed", folder / "killed"
    starting, per_step = left_alone(arguments, whole, nodes)
    events: list[dict[str, Any]] = []
    running: Start | None = None
    try:
        for number, kill in enumerate(tqdm(planned(arguments.kills, nodes is not None, dice), unit="kill")):
            delay = dice.uniform(0, starting)
            if not (kill.early and running is None):
                # A share of the work that is left, so that the run outlasts its kills.
                steps_left = arguments.steps - max(complete_steps(killed), default=0)
                delay = dice.uniform(0, steps_left * per_step / (arguments.kills - number + 1))
            running, anew = running or start(arguments, killed, nodes), running is None
            if anew and not kill.early:
                running.trains(killed / "metrics.jsonl")
            if running.ended_within(delay):
                break  # it came to its end first
            outcome = carry_out(kill, running, nodes, killed / "metrics.jsonl")
            events.append({**asdict(kill), "after_seconds": round(delay, 1), **outcome})
            events[-1]["complete_checkpoints"] = complete_steps(killed)
            if not running.alive():
                running = None
        running = running or start(arguments, killed, nodes)
        running.await_end()
    finally:
        if running is not None:
            running.end()
    return {
        **describe(torch.device("cpu")),
        "settings": {name: str(value) for name, value in {**SETTINGS, "training.max_steps": arguments.steps}.items()},
        "nodes": arguments.nodes,
        "kills": events,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "last_exit_codes": running.codes(),
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
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=1, help="2 needs root")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sparsepo-soak-"))
    with two_nodes() if arguments.nodes == 2 else nullcontext() as nodes:
        result = soak(arguments, folder, nodes)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    good = result["metrics_equal"] and result["weights_equal"] and not any(result["last_exit_codes"])
    good = good and len(result["kills"]) == arguments.kills
    equal = {name: "equal" if result[f"{name}_equal"] else "DIFFER" for name in ("metrics", "weights")}
    print(f"{len(result['kills'])} kills in {result['minutes']} minutes: {equal}")
    if not good:
        sys.exit(f"the runs and what they said are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

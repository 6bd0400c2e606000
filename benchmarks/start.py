"""What a user waits for from the command to the end of a training's first step, part by part; `make bench-start`.

    python -m benchmarks.start --data FOLDER [--smollm2 FOLDER] [--output FILE.json] [--rounds 3]

Every start is a process of its own; figures are medians over rounds. The first start of all, which also makes token
ids and builds what is built once on a machine, is told apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import describe
from benchmarks.smollm2 import given_or_made
from benchmarks.start_worker import Start
from benchmarks.tables import table
from benchmarks.worker import found_by

PAIRS = "imdb_pairs.jsonl"


def seconds_to_first_step(arguments: Sequence[str]) -> dict[str, float]:
    """Part to seconds, in order, of a training with these arguments of launch/train.py.

    Raises:
        SystemExit: it did not come to its first step.
    """
    seconds: dict[str, float] = found_by("benchmarks.start_worker", Start(time.time(), list(arguments)))["seconds"]
    return seconds


def parts_table(starts: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """A row for each part that took a hundredth of the whole: seconds of the first start, medians of the others."""
    first, *others = starts
    medians = {part: statistics.median(start.get(part, 0.0) for start in others or starts) for part in first}
    whole = {"first": sum(first.values()), "again": sum(medians.values())}
    rows = [
        {"part": part, "first start, s": seconds, "again, s": medians[part]}
        for part, seconds in first.items()
        if seconds > whole["first"] / 100 or medians[part] > whole["again"] / 100
    ]
    return [*rows, {"part": "all", "first start, s": whole["first"], "again, s": whole["again"]}]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M (default: the one the demo makes)")
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {PAIRS}")
    parser.add_argument("--output", type=Path, help="JSON file of every figure")
    parser.add_argument("--rounds", type=int, default=3, help="starts after the first one")
    arguments = parser.parse_args()
    smollm2 = given_or_made(arguments.smollm2)
    starts = []
    with tempfile.TemporaryDirectory(prefix="sparsepo-start-") as scratch:
        pairs = Path(scratch) / "pairs.jsonl"  # a copy: its token ids are not there yet
        pairs.write_bytes((arguments.data / PAIRS).read_bytes())
        fields = {"model.path": smollm2, "data.train": pairs, "data.on_bad_row": "skip", "training.pairs_per_step": 4}
        for number in range(1 + arguments.rounds):
            told = {**fields, "output_dir": Path(scratch) / f"run-{number}"}
            starts.append(seconds_to_first_step([f"--{name}={value}" for name, value in told.items()]))
    rows = parts_table(starts)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(table("From the command to the end of the first step, SmolLM2-135M", rows))
    if arguments.output:
        arguments.output.write_text(json.dumps({**describe(device), "starts": starts, "parts": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

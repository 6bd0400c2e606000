"""Data: pairs per second against one process and TRL, a cached start, a rank's memory, a step's share.

    python -m benchmarks.data --data FOLDER --output FILE.json [--pairs 20000] [--cached 160000] [--memory 1000,1000000]

`make bench-data`. Rows are those of hh_harmless_base.jsonl in the folder, as Anthropic HH has them, again and again; a
million of them (`--pairs 1000000 --only preparation --rounds 1`) take minutes. Everything of a table runs in turn, each
in a process of its own (benchmarks/data_worker.py), `--rounds` times; figures are medians. Other programs that use the
cores change seconds; `CPU ms / pair` is beside them, which is what all processes of a candidate computed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.data_worker import PAIRS_PER_STEP, Found, Job
from benchmarks.measure import MIB, describe
from benchmarks.smollm2 import given_or_made
from benchmarks.tables import table
from benchmarks.worker import found_by

FILE = "hh_harmless_base.jsonl"


class Bench(NamedTuple):
    """What all tables share."""

    rows: list[str]
    tokenizer: Path
    scratch: Path
    rounds: int
    pairs: int
    cached: int
    memory: list[int]
    processes: int

    def source(self, rows: int) -> str:
        """A file of so many rows."""
        path = self.scratch / f"rows-{rows}.jsonl"
        if not path.is_file():
            path.write_text("".join(islice(cycle(self.rows), rows)), encoding="utf-8")
        return str(path)

    def job(self, what: str, rows: int, **fields: Any) -> Job:
        """A job on so many rows, with a cache of its own."""
        cache = str(self.scratch / f"cache-{what}-{rows}-{fields.get('processes', 1)}")
        return Job(what, self.source(rows), str(self.tokenizer), cache, **fields)


def preparation_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """(a) Rows to token ids, checked: ours by one process and by several, and TRL's own preparation."""
    counts = (1, bench.processes)
    systems = ["ours", *(["trl"] if importlib.util.find_spec("trl") else [])]
    jobs = {f"{name}, {n} processes": bench.job(name, bench.pairs, processes=n) for name in systems for n in counts}
    found: dict[str, list[Found]] = {name: [] for name in jobs}
    for _ in range(bench.rounds):
        for name, job in jobs.items():
            shutil.rmtree(job.cache, ignore_errors=True)
            found[name].append(_measure(job))
    rates = {name: statistics.median(f.pairs / f.seconds for f in runs) for name, runs in found.items()}
    one = rates["ours, 1 processes"]
    for name, runs in found.items():
        cpu = statistics.median(f.cpu_seconds / f.pairs for f in runs)
        yield {
            "run": name, "pairs": runs[0].pairs, "x ours, 1 process": rates[name] / one, "pairs/s": rates[name],
            "CPU ms / pair": 1000 * cpu,
        }  # fmt: skip


def start_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """(b) A second start with the same data."""
    job = bench.job("ours", bench.cached, processes=bench.processes)
    shutil.rmtree(job.cache, ignore_errors=True)
    runs = {"first": [_measure(job)], "cached": [_measure(job) for _ in range(bench.rounds)]}
    for name, found in runs.items():
        yield {
            "start": name, "pairs": found[0].pairs, "seconds": statistics.median(f.seconds for f in found),
            "CPU seconds": statistics.median(f.cpu_seconds for f in found),
            "MiB, anonymous": max(f.memory["anonymous"] for f in found) / MIB,
        }  # fmt: skip


def step_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """(c) Memory of a rank for data, and what a step's pairs take, of a small step by transformers itself."""
    for pairs in bench.memory:
        job = bench.job("step", bench.pairs, processes=bench.processes, pairs=pairs)
        _measure(job)  # makes the pairs
        found = _measure(job)
        parts = {name: seconds for name, seconds in found.step.items() if name != "small step"}
        small = found.step["small step"]
        yield {
            "pairs": found.pairs, "MiB, anonymous": found.memory["anonymous"] / MIB,
            "MiB, mapped files": found.memory["mapped files"] / MIB, 
            **{f"{name} / step": seconds / small for name, seconds in parts.items()},
            "all / step": sum(parts.values()) / small, f"step of {PAIRS_PER_STEP} pairs, s": small,
        }  # fmt: skip


TABLES = {"preparation": preparation_rows, "start": start_rows, "step": step_rows}


def _measure(job: Job) -> Found:
    quiet = {"HF_DATASETS_CACHE": job.cache, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    return Found(**found_by("benchmarks.data_worker", job, **quiet))


def tables_of(bench: Bench, only: list[str]) -> Mapping[str, list[dict[str, Any]]]:
    """Measure, and print each table when it is there."""
    results = {}
    for name in only:
        results[name] = list(TABLES[name](bench))
        print(table(str(TABLES[name].__doc__), results[name]), flush=True)
    return results


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {FILE}")
    parser.add_argument(
        "--tokenizer", type=Path, help="folder of a tokenizer (default: that of the model the demo makes)"
    )
    parser.add_argument("--output", type=Path, help="JSON file of every figure; tables already in it are kept")
    parser.add_argument("--only", default=",".join(TABLES), help=f"some of {', '.join(TABLES)}")
    parser.add_argument("--pairs", type=int, default=20_000, help="rows of table (a)")
    parser.add_argument("--cached", type=int, default=160_000, help="rows of table (b)")
    parser.add_argument("--memory", default="1000,1000000", help="pairs of table (c): those of (a), again and again")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each candidate")
    parser.add_argument("--quick", action="store_true", help="a few hundred rows, once: whether it works")
    arguments = parser.parse_args()
    tokenizer = given_or_made(arguments.tokenizer)
    rows = (arguments.data / FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    sizes = [int(size) for size in arguments.memory.split(",")]
    with tempfile.TemporaryDirectory(prefix="sparsepo-bench-") as scratch:
        bench = Bench(
            rows, tokenizer, Path(scratch), arguments.rounds, arguments.pairs, arguments.cached, sizes,
            len(os.sched_getaffinity(0)),
        )  # fmt: skip
        if arguments.quick:
            bench = bench._replace(rounds=1, pairs=400, cached=400, memory=[100, 1000])
        results = tables_of(bench, arguments.only.split(","))
    if arguments.output is not None:
        known = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
        known |= {**describe(torch.device("cpu")), **results}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""One of several ranks that train what a JSON file describes and count what they move: `python -m benchmarks.traffic`.

torchrun ... -m benchmarks.traffic_worker '{"works": [...], "output": FILE.json}'
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.collectives import Counter, logged_by_deepspeed
from benchmarks.step_worker import Work, our_inputs, our_trainer

UNCOUNTED = 3  # steps: ZeRO-3 records modules in the second one and follows the record from the third on


def measure(work: Work, counter: Counter) -> dict[str, Any]:
    """Bytes and calls of a step that is like all later ones, and seconds of the steps after it."""
    folder = Path(tempfile.mkdtemp())
    trainer = our_trainer(work, our_inputs(work, folder), folder)
    if trainer.reference is not None:
        score = trainer.reference.score

        def scored(*args: Any) -> Any:
            with counter.purpose("reference's weights"):
                return score(*args)

        trainer.reference.score = scored  # type: ignore[method-assign]
    for step in range(UNCOUNTED):
        trainer.train_step(step)
    with counter.counting():
        trainer.train_step(UNCOUNTED)
    logged = logged_by_deepspeed()
    seconds = []
    for step in range(UNCOUNTED + 1, work.steps):
        dist.barrier()
        started = time.perf_counter()
        trainer.train_step(step)
        seconds.append(time.perf_counter() - started)
    return {
        "micro_batches": len(trainer.train_batches.of(trainer.order.step(UNCOUNTED))),
        "moved": [[*key, *moved] for key, moved in sorted(counter.found.items())],
        "logged_by_deepspeed": {name: list(moved) for name, moved in logged.items()},
        "seconds": min(seconds, default=None),
        "median_seconds": statistics.median(seconds) if seconds else None,
    }


def main() -> None:
    """Every work in turn, in one process group."""
    given = json.loads(sys.argv[1])
    counter = Counter()
    torch.manual_seed(0)
    found = []
    for work in given["works"]:
        found.append(measure(Work(**work), counter))
        gc.collect()
    if dist.get_rank() == 0:
        Path(given["output"]).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

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
from benchmarks.measure import copy_bandwidth, in_turn, matrix_rate
from benchmarks.step_worker import Work, our_inputs, our_trainer
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.engines.deepspeed.environment import prepare_environment

SIZES = (2**12, 2**24)
"""Bytes of the whole buffers that links are timed with."""
ROUNDS = 15
UNCOUNTED = 3  # steps: ZeRO-3 records modules in the second one and follows the record from the third on


def measure(work: Work, counter: Counter) -> dict[str, Any]:
    """Bytes and calls of a step that is like all later ones, and seconds of the steps after it."""
    folder = Path(tempfile.mkdtemp())
    trainer = our_trainer(work, our_inputs(work, folder), folder)
    reference: Any = trainer.reference
    if reference is not None:
        score = reference.score

        def scored(*args: Any) -> Any:
            with counter.purpose("reference's weights"):
                return score(*args)

        reference.score = scored
    for step in range(UNCOUNTED):
        trainer.train_step(step)
    with counter.counting():
        trainer.train_step(UNCOUNTED)
    logged = logged_by_deepspeed()
    seconds = []
    for step in range(UNCOUNTED + 1, work.steps):
        distributed.barrier()
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


def terms() -> dict[str, float]:
    """Of this machine, all ranks at work at once: rates a second, and seconds a call of an all-gather.

    The best of several, as steps are: other work on the machine only ever slows one down.
    """
    device = distributed.initialise()
    ranks = distributed.world_size()
    found = {
        "matrix_flops": max(matrix_rate(torch.float32, device, rounds=1, size=1024) for _ in range(ROUNDS)),
        "memory_bytes": max(copy_bandwidth(device, rounds=1) for _ in range(ROUNDS // 3)),
    }
    if ranks == 1:
        return found
    calls: dict[str, Any] = {}
    for size in SIZES:
        whole, part = torch.zeros(size // 4), torch.zeros(size // 4 // ranks)
        calls[str(size)] = lambda whole=whole, part=part: dist.all_gather_into_tensor(whole, part)
    rounds = [in_turn(calls, 1, device) for _ in range(ROUNDS)]
    least, most = (min(each[str(size)].seconds for each in rounds) for size in (SIZES[0], SIZES[-1]))
    sent = (SIZES[-1] - SIZES[0]) * (ranks - 1) / ranks
    return found | {"link_bytes": sent / (most - least), "call_seconds": least}


def main() -> None:
    """Every work in turn, in one process group."""
    given = json.loads(sys.argv[1])
    counter = Counter()
    prepare_environment()
    machine = terms() if given["terms"] else None
    torch.manual_seed(0)
    works = []
    for work in given["works"]:
        works.append(measure(Work(**work), counter))
        gc.collect()
    if distributed.rank() == 0:
        Path(given["output"]).write_text(json.dumps({"machine": machine, "works": works}))
    distributed.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Trains what a JSON file describes, as launch/train.py does up to saving, and notes the most memory it took.

glibc is kept from keeping freed memory, which training otherwise has it do on CPUs for speed: blocks of 64 KiB and more
then go back to the system when they are freed, so that resident memory is what is alive. Nothing else differs.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from sparsepo_dist.commands.entry import guarded
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.engines.deepspeed.environment import prepare_environment
from sparsepo_dist.runs.assembly import build_trainer
from sparsepo_dist.runs.inputs import load_inputs
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.run import open_run
from sparsepo_dist.training.checkpoints.checkpointer import Checkpointer
from sparsepo_dist.training.loop import TrainingLoop

GLIBC_TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in (("mmap_threshold", 65536), ("mmap_max", 10**6), ("trim_threshold", 131072))
)
"""What the environment of this worker must have."""


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS, now; VmHWM, the most so far."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    """Train; RUN/memory-RANK.json holds the peak in bytes, less what imports and initialisation had taken."""
    arguments, keep = json.loads(Path(sys.argv[1]).read_text())
    if not keep:
        distributed.keep_freed_memory = lambda: None
    prepare_environment()
    inputs = load_inputs(parse_train(arguments))
    distributed.initialise()
    folder, _ = open_run(inputs.config)
    before = resident("VmRSS")
    trainer = build_trainer(inputs, folder)
    checkpointer = Checkpointer(trainer.policy, folder / "checkpoints", inputs.config.checkpoints)
    TrainingLoop(trainer, checkpointer, {}, lambda: None, lambda step: None).run()
    peak = resident("VmHWM") - before
    (folder / f"memory-{distributed.rank()}.json").write_text(json.dumps({"peak": peak}))


if __name__ == "__main__":
    sys.exit(guarded(main))

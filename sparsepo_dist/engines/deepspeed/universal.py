"""Checkpoints for another number of ranks: DeepSpeed's converter from shards to whole parameters, in its own process.

The converter forks workers, which a process with GPUs, threads and open connections must not.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

from sparsepo_dist.engines.deepspeed.persistence import TAG, only_tensors
from sparsepo_dist.errors import unreadable

_PR_SET_PDEATHSIG = 1  # of prctl.h
_MOST_WORKERS = 8


class Conversion:
    """Writes checkpoint/engine/ as output/engine/, in a form that any number of ranks loads."""

    def __init__(self, checkpoint: Path, output: Path) -> None:
        self._checkpoint = checkpoint
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "sparsepo_dist.engines.deepspeed.universal", str(checkpoint), str(output)]
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._process.poll() is not None

    def failure(self) -> str | None:
        """Of a conversion that is done: why it failed; None where it did not."""
        told = self._process.communicate()[1].strip().splitlines()
        if self._process.returncode == 0:
            return None
        return (
            f"resume: {self._checkpoint} was written by another number of ranks and cannot be converted: "
            f"{told[-1] if told else f'exit code {self._process.returncode}'}. Resume on the number of ranks that it "
            "was written by"
        )


def main() -> None:
    """One conversion: its two folders are the arguments; what goes wrong is the last line of stderr."""
    ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    checkpoint, output = map(Path, sys.argv[1:])
    from deepspeed.checkpoint import ds_to_universal

    settings = argparse.Namespace(
        input_folder=str(checkpoint / TAG), output_folder=str(output / TAG), keep_temp_folder=False, strict=True,
        inject_missing_state=False, num_extract_workers=1,
        num_merge_workers=max(1, min(_MOST_WORKERS, len(os.sched_getaffinity(0)) // 2)),
    )  # fmt: skip
    try:
        with only_tensors(), contextlib.redirect_stdout(io.StringIO()):
            ds_to_universal.main(settings)
    except pickle.UnpicklingError as error:
        sys.exit(unreadable(error))


if __name__ == "__main__":
    main()

"""Places for jobs on this machine: some GPUs, or some CPU threads, each taken by one job at a time."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sparsepo_dist.errors import UserError
from sparsepo_dist.queueing.locks import lock
from sparsepo_dist.queueing.resources import Resources

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Place:
    """Where one job at a time can run."""

    lock: Path
    settings: dict[str, str]
    """Environment variables that keep a job to it."""

    def take(self) -> IO[bytes] | None:
        """Hold it; None where a job is there. It is free again with the last process that has the file open.

        Raises:
            RunError: the file system has no locks.
        """
        return lock(self.lock)

    @property
    def environment(self) -> dict[str, str]:
        """Of a job that runs here."""
        return {**os.environ, **self.settings}


def places(resources: Resources, output: Path) -> list[Place]:
    """This machine's places; those who share an output share them.

    Raises:
        UserError: more GPUs are wanted than there are.
    """
    gpus = [] if resources.gpus_per_job == 0 else _visible_gpus()
    each = resources.gpus_per_job if resources.gpus_per_job is not None else min(1, len(gpus))
    count = resources.jobs_at_once or (max(1, len(gpus) // each) if each else 1)
    if count * each > len(gpus):
        raise UserError(
            f"resources: {count} jobs at once with {each} GPUs each need {count * each}, and {len(gpus)} can be seen "
            "here; lower jobs_at_once or gpus_per_job (0 for CPUs)"
        )
    threads = resources.threads_per_job or max(1, len(os.sched_getaffinity(0)) // count)
    return [
        Place(
            output / "devices" / f"{socket.gethostname()}-{number}.lock",
            {_VISIBLE: ",".join(gpus[number * each : (number + 1) * each]), "OMP_NUM_THREADS": str(threads)},
        )
        for number in range(count)
    ]


def _visible_gpus() -> list[str]:
    """Ids as CUDA_VISIBLE_DEVICES takes them."""
    if not _may_have_gpus():
        return []
    import torch  # seconds, where there is no GPU for nothing

    count = torch.cuda.device_count()
    given = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    return given[:count] if given else [str(number) for number in range(count)]


def _may_have_gpus() -> bool:
    """Whether a driver of NVIDIA's, AMD's or of Windows' subsystem for Linux has left a device."""
    return any(any(Path("/dev").glob(name)) for name in ("nvidia[0-9]*", "kfd", "dxg"))

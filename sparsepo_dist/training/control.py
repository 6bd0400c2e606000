"""What all ranks agree on between two steps: whether to stop, whether it is time for a checkpoint."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from sparsepo_dist.engines.distributed import rank

# A terminal signals every process, and launchers pass it on once more: one request, not two.
ECHO_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Set by a signal; the second signal ends this process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals while open, and give them back."""
        before: dict[int, Any] = {number: signal.signal(number, self._take) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            if time.monotonic() - self._since < ECHO_SECONDS:
                return
            os.write(2, f"\n{name} again: ending at once\n".encode())
            os._exit(128 + number)
        self.signal, self._since = number, time.monotonic()
        if rank() != 0:
            return
        # print and logging may be what was interrupted
        os.write(2, f"\n{name}: finishing this step, then a checkpoint; once more ends at once\n".encode())


class Agreement(NamedTuple):
    """The same on every rank."""

    stop: int
    """The signal that some rank received; 0 if none."""
    due: bool
    """Whether some rank (only rank 0 looks at the clock) wants a checkpoint."""


def agree(device: torch.device, *, stop: int, due: bool) -> Agreement:
    """One small reduction; every rank must call this."""
    stop, due_somewhere = _highest([stop, due], device)
    return Agreement(stop, bool(due_somewhere))


def agree_all(device: torch.device, good: bool) -> bool:
    """Whether all ranks find it good; every rank must call this."""
    return _highest([not good], device) == [0]


def _highest(values: Sequence[int], device: torch.device) -> list[int]:
    flags = torch.tensor(values, dtype=torch.int32, device=device)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return [int(value) for value in flags.tolist()]

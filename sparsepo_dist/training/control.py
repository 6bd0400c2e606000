"""What all ranks agree on between two steps: whether to stop, whether it is time for a checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Set by a signal; the second signal ends this process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

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
            os.write(2, f"\n{name} again: ending at once\n".encode())
            os._exit(128 + number)
        self.signal = number
        # print and logging may be what was interrupted
        os.write(2, f"\n{name}: finishing this step, then a checkpoint; once more ends at once\n".encode())


class Agreement(NamedTuple):
    """The same on every rank."""

    stop: int
    """The signal that some rank received; 0 if none."""
    due: bool
    """Whether some rank (only rank 0 looks at the clock) wants a checkpoint."""
    busy: bool
    """Whether some rank still writes the last one."""


def agree(device: torch.device, *, stop: int, due: bool, busy: bool) -> Agreement:
    """One small reduction; every rank must call this."""
    flags = torch.tensor([stop, due, busy], dtype=torch.int32, device=device)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    stop, due_somewhere, busy_somewhere = flags.tolist()
    return Agreement(stop, bool(due_somewhere), bool(busy_somewhere))

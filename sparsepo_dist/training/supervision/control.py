"""Requests to stop, and what all ranks agree on between two steps."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.errors import StoppedError
from sparsepo_dist.training.supervision.streams import tell

# A terminal signals every process, and launchers pass it on once more: one request, not two.
ECHO_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """Signals that ask to stop, heard by a thread of their own: the main one may be in native code for long.

    While there is something to finish (`finishing`), the first signal is noted and the second ends this process at
    once; otherwise the first does.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        """The first one, while there was something to finish."""
        self._since = 0.0
        self._finishing = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals while open, and give them back."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        # Ignored, SIGHUP is nohup's; a script may ignore the others for itself and means them for the run all the same.
        deaf = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else []
        before: dict[int, Any] = {
            number: signal.signal(number, lambda *_: None) for number in STOP_SIGNALS if number not in deaf
        }
        listener = threading.Thread(target=self._listen, args=[reading], name="signals", daemon=True)
        listener.start()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(writing)
            listener.join()
            os.close(reading)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Open while steps are made: stopping takes the end of one, and a checkpoint."""
        self._finishing = True
        try:
            yield
        finally:
            self._finishing = False

    def _listen(self, pipe: int) -> None:
        while number := os.read(pipe, 1):
            if number[0] in STOP_SIGNALS:
                self._take(number[0])

    def _take(self, number: int) -> None:
        name = signal.Signals(number).name
        if not self._finishing:
            _announce(f"stopped by {name}; go on with --resume auto")
            os._exit(StoppedError("", by_hand=number == signal.SIGINT).exit_code)
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
            _announce(f"{name}: finishing this step, then a checkpoint; once more ends at once")
        elif time.monotonic() - self._since >= ECHO_SECONDS:
            _announce(f"{name} again: ending at once")
            os._exit(128 + number)


def _announce(message: str) -> None:
    """Rank 0's word, below a progress bar; print and logging may be what was interrupted."""
    if rank() == 0:
        tell(f"\n{message}\n")


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

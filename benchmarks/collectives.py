"""Counts what torch.distributed is asked to move: calls and bytes, by collective and by what they are for.

DeepSpeed's own comms logger is read beside it. On CPUs DeepSpeed 0.19 sends all it sends through the functions that it
logs; it notes an all-gather by a rank's part, other collectives by the whole buffer, and what the trainer itself sums
over ranks passes it by.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import deepspeed.comm
import torch.distributed as dist

# torch's function: the collective, and the argument that is the whole buffer (or all of its parts).
FUNCTIONS = {
    "all_gather": ("all-gather", "tensor_list"),
    "all_gather_into_tensor": ("all-gather", "output_tensor"),
    "all_gather_single": ("all-gather", "output_tensor"),
    "_all_gather_base": ("all-gather", "output_tensor"),
    "all_reduce": ("all-reduce", "tensor"),
    "all_reduce_coalesced": ("all-reduce", "tensors"),
    "broadcast": ("broadcast", "tensor"),
    "reduce": ("reduce", "tensor"),
    "reduce_scatter": ("reduce-scatter", "input_list"),
    "reduce_scatter_tensor": ("reduce-scatter", "input"),
    "reduce_scatter_single": ("reduce-scatter", "input"),
    "_reduce_scatter_base": ("reduce-scatter", "input"),
}
PURPOSES = {
    "all-gather": "weights", "reduce-scatter": "gradients", "all-reduce": "gradients", "reduce": "gradients"
}  # fmt: skip
OTHER = "norms, flags, metrics"
FEW_BYTES = 1024
"""Sums over ranks up to this size are norms, flags and metrics."""


class Moved(NamedTuple):
    """What was moved for one purpose by one kind of collective."""

    calls: int
    bytes: int
    """Of whole buffers, before the share that a rank sends of them."""


class Counter:
    """Wraps torch.distributed's functions; must be made before DeepSpeed joins the ranks, which keeps some of them."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Moved] = {}
        self._purpose: str | None = None
        self._counting = False
        for name, (collective, whole) in FUNCTIONS.items():
            function = getattr(dist, name, None)
            if function is not None:
                setattr(dist, name, self._wrapped(function, collective, whole))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count from nothing, here and in DeepSpeed's logger."""
        self.found = {}
        logger: Any = deepspeed.comm.comm.comms_logger
        logger.comms_dict = {}
        deepspeed.comm.configure(enabled=True, prof_all=True, verbose=False)
        self._counting = True
        try:
            yield
        finally:
            self._counting = False
            deepspeed.comm.configure(enabled=False)

    @contextmanager
    def purpose(self, purpose: str) -> Iterator[None]:
        """What is moved in here is for `purpose`."""
        before, self._purpose = self._purpose, purpose
        try:
            yield
        finally:
            self._purpose = before

    def _wrapped(self, function: Callable[..., Any], collective: str, whole: str) -> Callable[..., Any]:
        signature = inspect.signature(function)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._counting:
                buffer = signature.bind(*args, **kwargs).arguments[whole]
                tensors = buffer if isinstance(buffer, list | tuple) else [buffer]
                self._count(collective, sum(tensor.nbytes for tensor in tensors))
            return function(*args, **kwargs)

        return call

    def _count(self, collective: str, size: int) -> None:
        key = (collective, self._purpose or PURPOSES.get(collective, OTHER))
        if size <= FEW_BYTES and collective in ("all-reduce", "broadcast"):
            key = (collective, OTHER)
        before = self.found.get(key, Moved(0, 0))
        self.found[key] = Moved(before.calls + 1, before.bytes + size)


def logged_by_deepspeed() -> dict[str, Moved]:
    """What DeepSpeed's comms logger has noted since `Counter.counting` began, by collective and in its own bytes."""
    found: dict[str, Moved] = defaultdict(lambda: Moved(0, 0))
    logger: Any = deepspeed.comm.comm.comms_logger
    for name, sizes in logger.comms_dict.items():
        collective, _ = FUNCTIONS.get(name.split(" ")[0], (name, ""))
        for size, (calls, *_) in sizes.items():
            before = found[collective]
            found[collective] = Moved(before.calls + calls, before.bytes + calls * size)
    return dict(found)

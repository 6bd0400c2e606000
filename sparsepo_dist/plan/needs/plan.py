"""The answer to a request."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_dist.plan.asked.request import Request, Setting, resolve
from sparsepo_dist.plan.asked.shapes import BatchShape, largest_batch, micro_batches
from sparsepo_dist.plan.model.census import Census, take_census
from sparsepo_dist.plan.needs.exchanges import Traffic
from sparsepo_dist.plan.needs.phases import Memory, memory
from sparsepo_dist.plan.needs.traffic import traffic

GIB = 2**30
MARGIN = 0.08
"""Share of the memory that has to stay free: the allocator's fragments, and what is not foreseen."""


@dataclass(frozen=True)
class Plan:
    """What a run will need on each rank."""

    setting: Setting
    census: Census
    shape: BatchShape
    micro_batches: int
    """Of an optimizer step, on each rank."""
    memory: Memory
    traffic: list[Traffic]

    @property
    def peak(self) -> int:
        """Most bytes of a rank's memory in use at once."""
        return self.memory.peak.parts.total

    def fits(self, gpu_memory: float) -> bool:
        """Whether the peak leaves the margin of `gpu_memory` GiB free."""
        return self.peak <= usable(gpu_memory)


def usable(gpu_memory: float) -> float:
    """Bytes of `gpu_memory` GiB that a plan may use."""
    return gpu_memory * GIB * (1 - MARGIN)


def make_plan(request: Request) -> Plan:
    """Predict a run.

    Raises:
        UserError: anything the user can mend.
    """
    setting = resolve(request)
    census = take_census(setting)
    shape, count = largest_batch(setting), micro_batches(setting)
    return Plan(setting, census, shape, count, memory(setting, census, shape, count), traffic(setting, census, count))

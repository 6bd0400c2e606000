"""Which rank this is, and of how many, without torch: commands that load no model need not wait for it."""

from __future__ import annotations

import datetime
import sys
from types import ModuleType

from sparsepo_dist.engines.deepspeed.environment import whole_number

LEAST_TIMEOUT_MINUTES = 30


def joined() -> ModuleType | None:
    """torch.distributed, where this process has joined a group: it was imported then."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def rank() -> int:
    """Global rank, 0 before the process group exists and none is announced. Raises UserError where it is no number."""
    dist = joined()
    return whole_number("RANK", 0) if dist is None else int(dist.get_rank())


def local_rank() -> int:
    """Rank on this machine. Raises UserError for one that is no number."""
    return whole_number("LOCAL_RANK", 0)


def world_size() -> int:
    """Number of ranks. Raises UserError for one that is no number."""
    dist = joined()
    return whole_number("WORLD_SIZE", 1, least=1) if dist is None else int(dist.get_world_size())


def collective_timeout(hang_minutes: float) -> datetime.timedelta:
    """After which a collective fails: well after `hang_minutes`, so that the watchdog, which can say who hangs, speaks
    first."""
    return datetime.timedelta(minutes=max(LEAST_TIMEOUT_MINUTES, 2 * hang_minutes))

"""This process among its ranks, whichever launcher started it.

deepspeed is imported where ranks join: who only asks for its rank does not wait for it.
"""

from __future__ import annotations

import ctypes
import datetime
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from sparsepo_dist.engines.deepspeed.ranks import collective_timeout
from sparsepo_dist.engines.deepspeed.ranks import local_rank as local_rank
from sparsepo_dist.engines.deepspeed.ranks import rank as rank
from sparsepo_dist.engines.deepspeed.ranks import world_size as world_size

_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1  # of malloc.h
_MOST_NAMED = 8
_hosts: list[str] = []  # by rank, once they have joined

T = TypeVar("T")


def initialise(*, hang_minutes: float = 0.0) -> torch.device:
    """Join the process group and return this rank's device.

    Collectives time out well after `hang_minutes`, so that the watchdog, which can say who hangs, speaks first.
    """
    if not dist.is_initialized():
        import deepspeed

        timeout = collective_timeout(hang_minutes)
        if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
            _join_anew(timeout)
        deepspeed.init_distributed(verbose=False, timeout=timeout)
        if not torch.cuda.is_available():
            _unlink_shared_memory()
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        return torch.device("cuda", local_rank())
    keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // _ranks_here()))
    return torch.device("cpu")


def _join_anew(timeout: datetime.timedelta) -> None:
    """Ranks that torchrun starts again share its store with those that died: torch 2.13 would call their addresses."""
    from deepspeed.accelerator import get_accelerator

    store, number, count = next(rendezvous("env://", timeout=timeout))
    store = PrefixStore(f"restart-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = get_accelerator().communication_backend_name()
    device = torch.device("cuda", local_rank()) if torch.cuda.is_available() else None
    dist.init_process_group(
        backend, store=store, rank=number, world_size=count, timeout=timeout, device_id=device
    )  # fmt: skip


def _unlink_shared_memory() -> None:
    """DeepSpeed's memory between the CPU ranks of a machine, 67 MB a rank, has a name that nothing removes: each run
    would leave it filled for ever. Once all ranks have opened it, it needs none, and ends with them."""
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    barrier()
    Path(f"/dev/shm/deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank()}").unlink(missing_ok=True)


def learn_hosts() -> None:
    """Ask all ranks for the names of their machines, for messages. Every rank must call this, once they have joined."""
    _hosts[:] = of_all_ranks(socket.gethostname())


def named(numbers: Sequence[int]) -> str:
    """Ranks as messages name them: `ranks 0, 1`, with their hosts where the run has several."""
    if len(set(_hosts)) < 2:
        return listed(numbers)
    hosts = dict.fromkeys(_hosts[number] for number in numbers)
    return ", ".join(f"{listed([n for n in numbers if _hosts[n] == host])} on {host}" for host in hosts)


def listed(numbers: Sequence[int]) -> str:
    """`rank 1`, or `ranks 0, 1, ...`: the first few of them."""
    shown = ", ".join(map(str, numbers[:_MOST_NAMED]))
    return f"rank{'s' if len(numbers) > 1 else ''} {shown}{', ...' if len(numbers) > _MOST_NAMED else ''}"


def own_store() -> Any:
    """A connection of its own to the store that the ranks came together over, so that nobody waits behind another's
    question; None for one rank."""
    if world_size() == 1:
        return None
    store: Any = dist.distributed_c10d._get_default_store()
    return store.clone()


def store_holder(environment: Mapping[str, str] = os.environ) -> str:
    """Whose process that store is in, as messages name it."""
    return "torchrun" if _is_torchruns(environment) else named([0])


def holds_store() -> bool:
    """Whether that store ends with this process."""
    return rank() == 0 and not _is_torchruns(os.environ)


def _is_torchruns(environment: Mapping[str, str]) -> bool:
    return environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def barrier() -> None:
    """Wait for the other ranks, if there are any."""
    if world_size() > 1:
        dist.barrier()


def of_all_ranks(own: T) -> list[T]:
    """What each rank gives, in the order of ranks. Every rank must call this."""
    if world_size() == 1 or not dist.is_initialized():
        return [own]
    found: list[T] = [own] * world_size()
    dist.all_gather_object(found, own)
    return found


def of_rank_0(own: T) -> T:
    """What rank 0 gives. Every rank must call this."""
    told = [own]
    if world_size() > 1 and dist.is_initialized():
        dist.broadcast_object_list(told, src=0)
    return told[0]


def lost_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank is gone."""
    words = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks: fresh ones cost more in page faults than most operators in arithmetic."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library; only speed is lost
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)


def _ranks_here() -> int:
    """Ranks on this machine: torchrun and deepspeed name the variable differently."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)

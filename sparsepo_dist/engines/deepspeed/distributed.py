"""This process among its ranks, whichever launcher started it.

deepspeed is imported where ranks join: who only asks for its rank does not wait for it.
"""

from __future__ import annotations

import ctypes
import datetime
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import unwritable

log = logging.getLogger(__name__)

_MPI_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1  # of malloc.h
_STALE_LOCK_SECONDS = 1800
LEAST_TIMEOUT_MINUTES = 30
_MOST_NAMED = 8
_hosts: list[str] = []  # by rank, once they have joined
RESOLVE_SECONDS = 30
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_HIGHEST_PORT, _MOST_DIGITS = 2**16 - 1, 12

T = TypeVar("T")


def prepare_environment() -> None:
    """Fill in what a launcher would have set, so that plain `python launch/train.py` is one rank.

    Under mpirun the rank is left for DeepSpeed to find through mpi4py.

    Raises:
        UserError: what a launcher or a person has set cannot be.
    """
    _check_launch()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # DeepSpeed calls names that torch 2.13 renamed, once a collective.
    warnings.filterwarnings("ignore", message=".*is deprecated. Please use `torch.distributed", category=FutureWarning)
    # An own folder beside the environment: a shared one keeps stale locks of other projects, which hang for ever.
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    reason = None if given is None else unwritable(Path(given))
    if reason is not None:
        raise UserError(
            f"TORCH_EXTENSIONS_DIR: {given} cannot be written: {reason}; DeepSpeed builds its operators there: name a "
            "folder, or unset it"
        )
    extensions = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions")))
    for lock in extensions.glob("*/lock"):
        if _abandoned(lock):
            lock.unlink(missing_ok=True)
    # DeepSpeed builds its operators with the ninja of this environment, activated or not.
    binaries = str(Path(sys.executable).parent)
    if binaries not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join((binaries, os.environ.get("PATH", "")))
    if "RANK" not in os.environ and not any(name in os.environ for name in _MPI_VARIABLES):
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())


def _check_launch() -> None:
    """Hold what says which rank this is, and where rank 0 is, against what can be; before torch waits for it.

    Raises:
        UserError: which variable, and what it holds.
    """
    ranks = _number("WORLD_SIZE", 1, least=1)
    if "RANK" not in os.environ:
        if ranks > 1 and not any(name in os.environ for name in _MPI_VARIABLES):
            raise UserError(f"WORLD_SIZE is {ranks}, but RANK is not set: start all ranks by a launcher, or unset it")
        return
    own, absent = _number("RANK", 0), [name for name in _LAUNCHED if name not in os.environ]
    if absent:
        raise UserError(f"RANK is set without {', '.join(absent)}; a launcher sets all of {', '.join(_LAUNCHED)}")
    if own >= ranks:
        raise UserError(f"RANK is {os.environ['RANK']}, but WORLD_SIZE is {ranks}: ranks are counted from 0")
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        _number(name, 0)
    if not 1 <= _number("MASTER_PORT", 0) <= _HIGHEST_PORT:
        raise UserError(f"MASTER_PORT is {os.environ['MASTER_PORT']}; a port from 1 to {_HIGHEST_PORT} is wanted")
    _resolve(os.environ["MASTER_ADDR"])


def _number(name: str, default: int, least: int = 0) -> int:
    """A whole number from the environment.

    Raises:
        UserError: it is none, or below `least`.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()) or int(text[:_MOST_DIGITS]) < least:
        raise UserError(f"{name} is '{shortened(text)}' in the environment; a whole number from {least} on is wanted")
    return int(text[:_MOST_DIGITS])


def _resolve(address: str) -> None:
    """Wait a little for a name that is not known yet: a scheduler may announce its machines late. torch would look for
    it until its time-out."""
    until = time.monotonic() + RESOLVE_SECONDS
    waiting = False
    while True:
        try:
            socket.getaddrinfo(address, None)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() >= until:
                raise UserError(
                    f"MASTER_ADDR is '{shortened(address)}', which {socket.gethostname()} cannot resolve ({error}); "
                    "name the machine of rank 0 by an address that all ranks know"
                ) from None
            if not waiting:
                log.warning(
                    "MASTER_ADDR %s is not known here yet (%s); waiting up to %d s", address, error, RESOLVE_SECONDS
                )
            waiting = True
        time.sleep(1)


def _abandoned(lock: Path) -> bool:
    """Whether a lock of torch's extension loader was left by a process that was killed: all others would wait for ever.

    Its owner keeps it open. One on another machine that shares the folder cannot be seen from here, so a lock beside an
    operator that is still to be built is left for as long as building may take.
    """
    try:
        if time.time() - lock.stat().st_mtime > _STALE_LOCK_SECONDS:
            return True
    except FileNotFoundError:
        return False
    return any(lock.parent.glob("*.so")) and not _is_open_here(lock)


def _is_open_here(file: Path) -> bool:
    target = str(file.resolve())
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) == target:
                return True
        except OSError:  # it was closed since, or is another user's
            continue
    return False


def initialise(*, hang_minutes: float = 0.0) -> torch.device:
    """Join the process group and return this rank's device.

    Collectives time out well after `hang_minutes`, so that the watchdog, which can say who hangs, speaks first.
    """
    if not dist.is_initialized():
        import deepspeed

        timeout = datetime.timedelta(minutes=max(LEAST_TIMEOUT_MINUTES, 2 * hang_minutes))
        if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
            _join_anew(timeout)
        deepspeed.init_distributed(verbose=False, timeout=timeout)
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


def rank() -> int:
    """Global rank, 0 before the process group exists and none is announced. Raises UserError where it is no number."""
    return dist.get_rank() if dist.is_initialized() else _number("RANK", 0)


def local_rank() -> int:
    """Rank on this machine. Raises UserError for one that is no number."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    """Number of ranks. Raises UserError for one that is no number."""
    return dist.get_world_size() if dist.is_initialized() else _number("WORLD_SIZE", 1, least=1)


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


def free_port() -> str:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])

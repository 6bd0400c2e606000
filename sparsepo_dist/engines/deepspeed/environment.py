"""What a launcher, or a person, has set for this process: checked, and filled in where there was no launcher."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import warnings
from pathlib import Path

from sparsepo_dist.disk import unwritable
from sparsepo_dist.errors import UserError, shortened

log = logging.getLogger(__name__)

RESOLVE_SECONDS = 30
_MPI_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_HIGHEST_PORT, _MOST_DIGITS = 2**16 - 1, 12
_STALE_LOCK_SECONDS = 1800


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
    ranks = whole_number("WORLD_SIZE", 1, least=1)
    if "RANK" not in os.environ:
        if ranks > 1 and not any(name in os.environ for name in _MPI_VARIABLES):
            raise UserError(f"WORLD_SIZE is {ranks}, but RANK is not set: start all ranks by a launcher, or unset it")
        return
    own, absent = whole_number("RANK", 0), [name for name in _LAUNCHED if name not in os.environ]
    if absent:
        raise UserError(f"RANK is set without {', '.join(absent)}; a launcher sets all of {', '.join(_LAUNCHED)}")
    if own >= ranks:
        raise UserError(f"RANK is {os.environ['RANK']}, but WORLD_SIZE is {ranks}: ranks are counted from 0")
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        whole_number(name, 0)
    if not 1 <= whole_number("MASTER_PORT", 0) <= _HIGHEST_PORT:
        raise UserError(f"MASTER_PORT is {os.environ['MASTER_PORT']}; a port from 1 to {_HIGHEST_PORT} is wanted")
    _resolve(os.environ["MASTER_ADDR"])


def whole_number(name: str, default: int, least: int = 0) -> int:
    """A whole number from the environment; `default` where there is none.

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


def free_port() -> str:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])

"""The folder of a run: made, claimed for one set of ranks, cleared of another run only when that is asked for."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
import uuid
from pathlib import Path
from typing import IO

from sparsepo_dist.disk import remove, unwritable
from sparsepo_dist.engines.deepspeed.ranks import world_size
from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.training.checkpoints.store import open_checkpoint

log = logging.getLogger(__name__)

CHECKPOINTS, EXPORTED, FINAL = "checkpoints", "exported", "final"
LOCK = ".lock"
# All that a run writes; nothing else is ever removed.
WRITTEN = (
    "config.yaml", "sources.json", "metrics.jsonl", "tokens.jsonl", "evaluation.json", CHECKPOINTS, EXPORTED, FINAL,
    "report", "monitor",
)  # fmt: skip
# File servers hold the locks of a machine that has died for as long as its lease.
PATIENCE_SECONDS = 120
# NFS asks again after at most a minute what is in a folder.
SHARED_SECONDS, _LOOK_SECONDS = 65.0, 0.2
_TOKEN = ".seen-by-all-"
STACKS = "hang-rank-*.txt"


def run_folder(config: RunConfig) -> Path:
    """Where the run is, or will be; nothing is made.

    Raises:
        UserError: resume and output_dir do not fit each other, or there is no such checkpoint.
    """
    if config.resume not in (None, "auto"):
        folder = open_checkpoint(Path(config.resume)).folder.parent.parent
        if config.output_dir is not None and Path(config.output_dir).resolve() != folder.resolve():
            raise UserError(
                f"resume: {config.resume} is a checkpoint of {folder}, but output_dir is {config.output_dir}"
            )
        return folder
    if config.resume == "auto" and config.output_dir is None:
        raise UserError("resume: auto needs --output_dir, the folder of the run to go on with")
    return Path(config.output_dir or f"runs/{config.objective.name}-{time.strftime('%Y%m%d-%H%M%S')}")


def check_output_dir(config: RunConfig) -> None:
    """Refuse a folder that cannot be written, or that holds another run; nothing is made.

    Raises:
        UserError: which, and what to do.
    """
    folder = run_folder(config)
    reason = unwritable(folder)
    if reason is not None:
        raise UserError(f"output_dir: {folder} cannot be written: {reason}; name another folder")
    if folder.is_dir() and config.resume is None and not config.overwrite and _occupied(folder):
        raise UserError(
            f"output_dir: {folder} is not empty; go on with its run with --resume auto, start it anew with "
            "--overwrite true, or name another folder"
        )


def claim(config: RunConfig) -> tuple[Path, IO[str]]:
    """Make the folder and hold it: (folder, open lock). Rank 0 calls this; the lock ends with the file or the process.

    Raises:
        UserError: another run is at work in it, or it cannot be written.
    """
    check_output_dir(config)
    folder = run_folder(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a+", opener=_no_link)  # noqa: SIM115  (held as long as the run)
        _hold(lock, folder)
        if config.overwrite:
            _clear(folder)
    except OSError as error:
        raise UserError(f"output_dir: {folder} cannot be written: {error.strerror}") from None
    return folder, lock


def _no_link(path: str, flags: int) -> int:
    """As open does, but not what a link leads to: the file is emptied."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def check_shared(folder: Path) -> None:
    """Whether a folder that rank 0 has made is one and the same for all ranks; every rank must call this.

    Raises:
        UserError: it is not (on every rank); the machines that do not see it are named.
    """
    if world_size() == 1:
        return
    from sparsepo_dist.engines.deepspeed import distributed

    name = distributed.of_rank_0(f"{_TOKEN}{uuid.uuid4().hex}")
    if distributed.rank() == 0:
        (folder / name).touch()
    distributed.barrier()
    found = distributed.of_all_ranks((_appears(folder, name), socket.gethostname(), str(folder.absolute())))
    if distributed.rank() == 0:
        (folder / name).unlink()
    blind = [(number, f"{host} ({path})") for number, (seen, host, path) in enumerate(found) if not seen]
    if blind:
        raise UserError(
            f"output_dir: {folder} is not one folder for all ranks: what rank 0 wrote to it on {found[0][1]} "
            f"({found[0][2]}) is not seen on {', '.join(dict.fromkeys(where for _, where in blind))}, where "
            f"{distributed.listed([number for number, _ in blind])} should write too. Name a folder, by its whole "
            "path, on a file system that all machines share"
        )


def _appears(folder: Path, name: str) -> bool:
    """Whether a file is in a folder, now or within `SHARED_SECONDS`."""
    until = time.monotonic() + SHARED_SECONDS
    while not _lists(folder, name):
        if time.monotonic() >= until:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _lists(folder: Path, name: str) -> bool:
    """Network file systems remember for a while that a name was not there; a list they ask for again."""
    try:
        return any(path.name == name for path in folder.iterdir())
    except OSError:  # not there yet, or never
        return False


def _occupied(folder: Path) -> bool:
    return any(path.name != LOCK and not path.name.startswith(_TOKEN) for path in folder.iterdir())


def _hold(lock: IO[str], folder: Path) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    try:
        while not _locked(lock):
            lock.seek(0)
            holder = lock.read().strip()
            if _works_here(holder) or time.monotonic() > until:
                raise UserError(
                    f"output_dir: another run is at work in {folder} ({holder or 'unknown'}); wait for its end, or "
                    "name another folder"
                )
            time.sleep(1)
    except OSError as error:
        log.warning("%s cannot be locked here (%s): do not start two runs in it", folder, error.strerror)
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def _works_here(holder: str) -> bool:
    """Whether a lock's text names a living process of this machine. One that is gone leaves its name behind, and who
    looks whether a run is at work holds the lock for a moment."""
    number, _, host = holder.removeprefix("process ").partition(" on ")
    if host != socket.gethostname() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, and is another user's
        return True
    return True


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(folder: Path) -> None:
    for path in [*(folder / name for name in WRITTEN), *folder.glob(STACKS)]:
        remove(path)

"""Ends a run in which nothing moves any more, and says which rank holds up the others, and where.

Every rank has a thread that tells the others, through the store that the process group came together over, where its
work is. No collective is needed, so the thread still speaks when the work hangs in one. Before the ranks have joined,
each has its own clock only.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from sparsepo_dist.engines.deepspeed.distributed import named, own_store, rank, store_holder, world_size
from sparsepo_dist.errors import RunError
from sparsepo_dist.training.supervision.endings import LONGEST_BEAT, Endings, sign_key
from sparsepo_dist.training.supervision.progress import Progress
from sparsepo_dist.training.supervision.streams import tell

LONGEST_PULSE = 5.0  # seconds between two looks at the own progress
_FRAMES_OF_A_WAIT = 8
_WORK_BYTES = 1 << 20  # between two pulses


@dataclass(frozen=True)
class Sign:
    """What a rank last said of itself."""

    marks: int
    work: str
    place: str
    """The innermost line of Python that the working thread was in."""
    waits: bool
    """Whether it waited for other ranks there."""
    still: float
    """Seconds since the work last moved."""
    sent: float
    """Unix time."""


class Watchdog:
    """Watches this rank's progress while it is open; ends the process when it stands still for too long.

    Args:
        progress: marked by the working thread, which opens and closes the watchdog.
        seconds: how long nothing may move; 0 for ever. Ranks tell each other how they are all the same.
    """

    def __init__(self, progress: Progress, seconds: float) -> None:
        self._progress, self._seconds = progress, seconds
        self.folder: Path | None = None
        """Where the stacks of a rank that hangs are written, once there is such a folder."""
        self._store: Any = None
        self._endings: Endings | None = None
        self._joined = threading.Event()
        self._closed = threading.Event()
        self._spoken = False
        self._worker = threading.current_thread().ident
        self._pulse = min(LONGEST_PULSE, seconds / 10) if seconds else LONGEST_PULSE
        # Two threads: the store may be on a machine that is gone, and talking to it may then take for ever.
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("signs of life", self._tell), ("watchdog", self._watch))[: 2 if seconds else 1]
        ]

    def __enter__(self) -> Watchdog:
        for thread in self._threads:
            thread.start()
        return self

    def joined(self, endings: Endings) -> None:
        """The ranks have found each other: from now on they tell each other how they are, and hear of ends."""
        self._store, self._endings = own_store(), endings
        self._joined.set()

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._joined.set()
        for thread in self._threads:
            thread.join(timeout=2 * self._pulse)

    def _watch(self) -> None:
        moved = _bytes_moved()
        while not self._closed.wait(self._pulse):
            before, moved = moved, _bytes_moved()
            if moved - before >= _WORK_BYTES:  # a model that is read or written is one mark for many minutes
                self._progress.since = time.monotonic()
            sign = self._sign()
            if sign.still > self._seconds:
                self._end(sign)

    def _sign(self) -> Sign:
        progress = self._progress
        place, waits = _whereabouts(sys._current_frames().get(self._worker or 0))
        still = time.monotonic() - progress.since
        return Sign(progress.marks, str(progress), place, waits, still, time.time())

    def _tell(self) -> None:
        self._joined.wait()
        with suppress(RuntimeError):  # the store ended with its rank; each rank's own clock still counts
            beat = min(self._pulse, LONGEST_BEAT)
            while self._store is not None and self._endings is not None and not self._closed.wait(beat):
                self._store.set(sign_key(rank()), json.dumps(self._sign().__dict__))
                self._endings.hear(self._store)

    def _end(self, own: Sign) -> None:
        # Asking may hang as the work does.
        alone = threading.Timer(3 * self._pulse, self._last_words, [own])
        alone.daemon = True
        alone.start()
        with suppress(RuntimeError):
            if not self._joined.is_set():
                _say(describe_joining(own, self._seconds))
            elif self._others_move(own, signs := self._signs(own)):
                alone.cancel()
                return
            elif self._first_to_speak():
                report = describe_hang(signs, self._seconds, 3 * self._pulse)
                where = "" if self.folder is None else f" Stacks of every rank that can write them: {self.folder}"
                _say(f"{report} {self._progress.left()}.{where}")
        self._spoken = True
        time.sleep(self._pulse)  # for the one that speaks: launchers end all ranks when one is gone
        if self.folder is not None:
            with suppress(OSError), (self.folder / f"hang-rank-{rank()}.txt").open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        os._exit(RunError.exit_code)

    def _last_words(self, own: Sign) -> None:
        """Where the store or the file system hangs as well."""
        if not self._spoken:
            _say(f"{describe_silence(rank(), own, self._seconds, os.environ)} {self._progress.left()}.")
        os._exit(RunError.exit_code)

    def _first_to_speak(self) -> bool:
        return self._store is None or int(self._store.add("sparsepo/watchdog/spoke", 1)) == 1

    def _others_move(self, own: Sign, signs: Mapping[int, Sign]) -> bool:
        """Whether this rank waits, however long, for one that is at work."""
        newest = max(sign.sent for sign in signs.values())
        return own.waits and any(sign.still + newest - sign.sent <= self._seconds for sign in signs.values())

    def _signs(self, own: Sign) -> dict[int, Sign]:
        signs = {rank(): own}
        for other in range(world_size()):
            if self._store is not None and other != rank() and self._store.check([sign_key(other)]):
                signs[other] = Sign(**json.loads(self._store.get(sign_key(other))))
        return signs


def describe_hang(signs: Mapping[int, Sign], seconds: float, stale: float) -> str:
    """Which ranks hold up the others, and what all of them were doing.

    Args:
        signs: rank to its last sign of life.
        seconds: how long nothing moved.
        stale: a sign older than this (seconds) comes from a process that does not run.
    """
    newest = max(sign.sent for sign in signs.values())
    silent = [number for number, sign in signs.items() if newest - sign.sent > stale]
    behind = [number for number, sign in signs.items() if sign.marks == min(s.marks for s in signs.values())]
    culprits = silent or [number for number in behind if not signs[number].waits] or behind
    if silent:
        lines = [
            f"no sign of life for {newest - max(signs[number].sent for number in numbers):.0f} s "
            f"from {named(numbers)}, last in {where}"
            for where, numbers in _by(lambda number: f"{signs[number].work}, at {signs[number].place}", silent).items()
        ]
        lines.append("stopped, or locked up in native code, or the machine, or the network to it, is gone")
    else:
        lines = [f"{named([number])} hangs in {signs[number].work}, at {signs[number].place}" for number in culprits]
    others = _by(lambda number: signs[number].work, [number for number in sorted(signs) if number not in culprits])
    waiting = "".join(f"; waiting for it in {work}: {named(numbers)}" for work, numbers in others.items())
    return f"{_nothing_moved(seconds)}: {'; '.join(lines)}{waiting}. All ranks end."


def describe_joining(own: Sign, seconds: float) -> str:
    """Where a rank is that never met the others."""
    here = f"rank {rank()} of {world_size()} on {socket.gethostname()}"
    if not own.waits:
        return f"{_nothing_moved(seconds)}: {here} hangs in {own.work}, at {own.place}. This rank ends."
    return (
        f"{_nothing_moved(seconds)}: {here} waits for the others at {_meeting_point(os.environ)}. Are all of them "
        "started, with one MASTER_ADDR, MASTER_PORT and WORLD_SIZE, and can they reach that machine? This rank ends."
    )


def describe_silence(number: int, own: Sign, seconds: float, environment: Mapping[str, str]) -> str:
    """What a rank can say when nothing moved for `seconds` and the store of the ranks does not answer.

    A store answers from a thread that needs no Python: who holds it is stopped, or cannot be reached.
    """
    return (
        f"{_nothing_moved(seconds)}, and {store_holder(environment)} at {_meeting_point(environment)}, through which "
        "ranks speak, does not answer: it was stopped, or its machine, this one or the network between them is gone. "
        f"Rank {number} on {socket.gethostname()} was in {own.work}, at {own.place}. This rank ends."
    )


def _nothing_moved(seconds: float) -> str:
    return f"nothing moved for {seconds:.0f} s (training.hang_minutes)"


def _meeting_point(environment: Mapping[str, str]) -> str:
    return f"{environment.get('MASTER_ADDR')}:{environment.get('MASTER_PORT')}"


def _by(key: Callable[[int], str], numbers: Sequence[int]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for number in numbers:
        groups.setdefault(key(number), []).append(number)
    return groups


def _whereabouts(frame: FrameType | None) -> tuple[str, bool]:
    """The innermost line of a thread, and whether it waits for other ranks there."""
    if frame is None:
        return "an unknown place", False
    code = frame.f_code
    place = f"{code.co_filename}:{frame.f_lineno} ({code.co_name})"
    current: FrameType | None = frame
    for _ in range(_FRAMES_OF_A_WAIT):
        if current is None:
            break
        file = current.f_code.co_filename
        communicates = "torch/distributed/" in file or "deepspeed/comm/" in file
        if communicates or ("deepspeed/" in file and current.f_code.co_name == "wait"):
            return place, True
        current = current.f_back
    return place, False


def _bytes_moved() -> int:
    """What this process has read and written so far, by calls and through the page cache; 0 where nobody counts."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counts = dict(line.split(": ") for line in lines)
    return sum(int(counts[name]) for name in ("rchar", "wchar", "read_bytes", "write_bytes"))


def _say(report: str) -> None:
    tell(f"\nerror: {report}\n")

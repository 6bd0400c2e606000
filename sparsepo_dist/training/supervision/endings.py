"""Why a rank ended, told to the others through the store of the ranks: all that they see of it is that it is gone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from socket import gethostname
from typing import Any, TypeVar

from sparsepo_dist.errors import HandedOnError, RankError, RunError, UserError, shortened

LONGEST_BEAT = 1.0
"""Seconds between two signs of life, at most."""
_PATIENCE = 2.5 * LONGEST_BEAT
_TICK = 0.1
_LONGEST = 2000

T = TypeVar("T")


def sign_key(number: int) -> str:
    """Where a rank leaves its signs of life in the store."""
    return f"sparsepo/watchdog/{number}"


@dataclass(frozen=True)
class Ending:
    """Why a run ended, by the first rank that said so."""

    code: int
    """That rank's exit code."""
    lost: list[int]
    """Ranks that it had no sign of life of; empty where it ended by itself."""
    message: str = ""

    def error(self) -> HandedOnError:
        """For a rank that ends because of it."""
        return HandedOnError(f"another rank ended: {self.message}", self.code)


class Endings:
    """What one rank tells of its end, and hears of others'.

    Args:
        store: of the ranks, over a connection of its own; None where there is one rank, which has nobody to tell.
        key: what a run's words are kept under: one store may see several runs.
        number: of this rank.
        ranks: how many there are.
        holds_store: whether the store ends with this process.
    """

    def __init__(self, store: Any, key: str, number: int, ranks: int, *, holds_store: bool) -> None:
        self._store, self._key, self._number, self._ranks = store, key, number, ranks
        self._holds_store = holds_store
        self._heard: Ending | None = None
        self._acknowledged, self._lock = False, threading.Lock()
        self.store_is_silent = False
        """Whether the store did not answer when it was asked last."""

    def hear(self, store: Any) -> None:
        """Learn of another rank's end, which may be the end of the store, by a thread and over a connection of its own.

        Raises:
            RuntimeError: there is no store any more.
        """
        if self._heard is None:
            self._heard = self._ended(store)
        if self._heard is not None:
            self._acknowledge(store)

    def tell(self, error: Exception) -> None:
        """This rank ends by an error of its own."""
        code = getattr(error, "exit_code", RunError.exit_code)
        message = str(error) if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {error}"
        named = message if isinstance(error, RankError) else f"rank {self._number} on {gethostname()}: {message}"
        ending = Ending(code, [], shortened(named, _LONGEST))

        def told() -> None:
            self._leave(ending)
            self._stay(ending)

        if self._store is not None:
            self._asked(told, waits=3)

    def of_another(self) -> Ending | None:
        """Why another rank ended, after a collective has failed; None where nobody can say.

        A rank without a word and without a sign of life for `_PATIENCE` is a lost one. The process that holds the store
        stays, for twice that time at most, until the other living ranks have heard.
        """
        if self._store is None:
            return None
        ending = self._heard or self._awaited()
        if ending is not None:
            self._asked(lambda: self._stay(ending), waits=3)
        return ending

    def _awaited(self) -> Ending | None:
        before = self._asked(self._signs)
        if before is None:
            return None
        until = time.monotonic() + _PATIENCE
        while not self.store_is_silent and time.monotonic() < until:
            heard = self._asked(lambda: self._ended(self._store))
            if heard is not None:
                return heard
            time.sleep(_TICK)
        after = self._asked(self._signs) or {}
        lost = [number for number, sign in before.items() if after.get(number) == sign]
        if not lost:
            return None
        ending = Ending(RunError.exit_code, lost)
        self._asked(lambda: self._leave(ending))
        return ending

    def _ended(self, store: Any) -> Ending | None:
        key = f"{self._key}/ended"
        return Ending(**json.loads(store.get(key))) if store.check([key]) else None

    def _signs(self) -> dict[int, bytes]:
        """The last sign of life of each other rank that has given any: no two of a rank are the same."""
        others = [number for number in range(self._ranks) if number != self._number]
        return {number: self._store.get(sign_key(number)) for number in others if self._store.check([sign_key(number)])}

    def _leave(self, ending: Ending) -> None:
        """Put it into the store, unless another rank was first."""
        if self._store.add(f"{self._key}/first", 1) == 1:
            self._store.set(f"{self._key}/ended", json.dumps(asdict(ending)))

    def _stay(self, ending: Ending) -> None:
        self._acknowledge(self._store)
        if self._holds_store:
            living, until = self._ranks - len(ending.lost), time.monotonic() + 2 * _PATIENCE
            while self._store.add(f"{self._key}/known", 0) < living and time.monotonic() < until:
                time.sleep(_TICK)

    def _acknowledge(self, store: Any) -> None:
        with self._lock:
            if not self._acknowledged:
                self._acknowledged = True
                store.add(f"{self._key}/known", 1)

    def _asked(self, question: Callable[[], T], *, waits: int = 1) -> T | None:
        """An answer of the store; None where it gives none: its machine, or the network to it, may be gone."""
        answers: list[T] = []

        def ask() -> None:
            try:
                answers.append(question())
            except RuntimeError:  # the store has ended
                return

        thread = threading.Thread(target=ask, name="asking the store", daemon=True)
        thread.start()
        thread.join(waits * _PATIENCE)
        self.store_is_silent = not answers
        return answers[0] if answers else None

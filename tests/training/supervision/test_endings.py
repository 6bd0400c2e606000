"""What ranks learn of each other's ends through their store."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import pytest
import torch.distributed as dist

from sparsepo_dist.errors import RankError, UserError
from sparsepo_dist.training.supervision import endings
from sparsepo_dist.training.supervision.endings import Endings, sign_key


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(endings, "_PATIENCE", 0.5)
    return dist.HashStore()


def ranks(store: Any, count: int) -> list[Endings]:
    return [Endings(store, "run", number, count, holds_store=number == 0) for number in range(count)]


def living(store: Any, number: int) -> threading.Event:
    """A rank that gives signs of life until the event is set."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            store.set(sign_key(number), str(time.monotonic()))

    store.set(sign_key(number), "alive")
    threading.Thread(target=beat, daemon=True).start()
    return ended


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("shard 3 holds code"), 2, "rank 1 on .*: shard 3 holds code"),
        (
            RankError("rank 1 on node2: the disk is full"),
            1,
            "another rank ended: rank 1 on node2: the disk is full",
        ),
        (ZeroDivisionError("by zero"), 1, "rank 1 on .*: ZeroDivisionError: by zero"),
    ],
)
def test_the_reason_of_the_rank_that_ended_first(store: Any, error: Exception, code: int, told: str) -> None:
    first, second, third = ranks(store, 3)
    second.tell(error)
    third.tell(UserError("what came of it"))
    ending = first.of_another()
    assert ending is not None and not ending.lost
    assert ending.error().exit_code == code and re.search(told, str(ending.error()))


def test_a_rank_without_a_sign_of_life(store: Any) -> None:
    """The one that noticed says so to those who only see it go."""
    first, second, *_ = ranks(store, 4)
    alive = [living(store, number) for number in (0, 1, 2)]
    living(store, 3).set()
    found = first.of_another()
    assert found is not None and found.lost == [3]
    alive[0].set()
    assert second.of_another() == found


def test_nobody_is_called_lost_who_is_alive(store: Any) -> None:
    first, *_ = ranks(store, 2)
    ended = living(store, 1)
    assert first.of_another() is None and not first.store_is_silent
    ended.set()


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "cut off"])
def test_a_store_that_does_not_answer(store: Any, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(keys: list[str]) -> bool:
        if not ends:
            threading.Event().wait()
        raise RuntimeError("Connection reset by peer")

    first, *_ = ranks(store, 2)
    monkeypatch.setattr(first, "_store", type("Gone", (), {"check": staticmethod(check)})())
    assert first.of_another() is None and first.store_is_silent


def test_who_holds_the_store_stays_until_all_have_heard(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "_PATIENCE", 60)
    first, second = ranks(store, 2)
    ends = threading.Thread(target=first.tell, args=[UserError("no such file")], daemon=True)
    ends.start()
    while not store.check(["run/ended"]):
        time.sleep(0.01)
    assert ends.is_alive()
    second.hear(store)
    ends.join(timeout=60)
    assert not ends.is_alive()
    found = second.of_another()
    assert found is not None and "no such file" in found.message


def test_who_holds_the_store_and_heard_of_an_end_stays_as_well(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "_PATIENCE", 60)
    first, second, third = ranks(store, 3)
    second.tell(UserError("no such file"))
    hears = threading.Thread(target=first.of_another, daemon=True)
    hears.start()
    hears.join(timeout=0.5)
    assert hears.is_alive()
    found = third.of_another()
    assert found is not None and "no such file" in found.message
    hears.join(timeout=60)
    assert not hears.is_alive()

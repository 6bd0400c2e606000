"""Which rank a hang is put down to."""

from __future__ import annotations

import dataclasses
import socket

from sparsepo_dist.training.supervision.watchdog import Sign, describe_hang, describe_silence

WAITS = Sign(40, "step 5, backward", "c10d.py:1 (all_reduce)", True, 70.0, 1000.0)


def describe(**changed: dict[str, object]) -> str:
    signs = dict.fromkeys(range(4), WAITS)
    for name, changes in changed.items():
        number = int(name.removeprefix("rank"))
        signs[number] = dataclasses.replace(WAITS, **changes)
    return describe_hang(signs, 60, 15)


def test_the_one_behind() -> None:
    told = describe(rank2={"marks": 38, "work": "step 5, packing", "place": "data.py:7 (read)", "waits": False})
    assert "nothing moved for 60 s" in told
    assert "rank 2 hangs in step 5, packing, at data.py:7 (read)" in told
    assert "waiting for it in step 5, backward: ranks 0, 1, 3" in told


def test_the_one_that_does_not_wait() -> None:
    """Ranks in lockstep have come as far; one of them is not in a collective."""
    told = describe(rank3={"waits": False, "place": "gc.py:3 (collect)"})
    assert "rank 3 hangs in step 5, backward, at gc.py:3 (collect)" in told
    assert "rank 0 hangs" not in told


def test_the_one_without_a_sign_of_life() -> None:
    """A stopped process, or one whose interpreter is locked, cannot tell where it is."""
    told = describe(rank1={"sent": 930.0, "marks": 41}, rank2={"sent": 929.0, "marks": 41})
    assert "no sign of life for 70 s from ranks 1, 2, last in step 5, backward, at c10d.py:1" in told
    assert "or the machine, or the network to it, is gone" in told
    assert "hangs" not in told


def test_all_wait() -> None:
    told = describe()
    assert all(f"rank {number} hangs in step 5, backward" in told for number in range(4))


def test_the_one_through_which_ranks_speak() -> None:
    """It cannot be asked who hangs: it is the one."""
    place = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    told = describe_silence(3, WAITS, 60, place)
    assert "nothing moved for 60 s" in told and "rank 0 at node1:29500" in told and "does not answer" in told
    assert f"Rank 3 on {socket.gethostname()} was in step 5, backward" in told and "hangs" not in told
    place["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    assert "torchrun at node1:29500" in describe_silence(3, WAITS, 60, place)

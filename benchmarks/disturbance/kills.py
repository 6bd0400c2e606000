"""What is done to a run, drawn before it starts, and how it is done."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.disturbance.nodes import Nodes
from benchmarks.disturbance.start import RANKS_PER_NODE, Start, node_of

ONE_RANK, A_NODE, STOP = "kill -9 of one rank", "kill -9 of all ranks of a node", "SIGTERM to all ranks"
SHORT_CUT, LONG_CUT = "the link cut, and back before hang_minutes", "the link cut for longer than hang_minutes"
# Of ten kills, how many are of which kind.
ON_ONE_NODE = {ONE_RANK: 6, A_NODE: 2, STOP: 2}
ON_TWO_NODES = {ONE_RANK: 4, A_NODE: 2, STOP: 1, SHORT_CUT: 1, LONG_CUT: 2}
HANG_MINUTES = 1.0
_SHORT, _LONG = (2, 0.4 * 60 * HANG_MINUTES), (1.2 * 60 * HANG_MINUTES, 3 * 60 * HANG_MINUTES)  # seconds
_EARLY = 0.2
_PATIENCE_SECONDS = 900


@dataclass(frozen=True)
class Kill:
    """One of them.

    Args:
        kind: a key of ON_ONE_NODE or ON_TWO_NODES.
        node: the one it happens on, counted from 1.
        rank: the one it happens to, where it is one rank.
        early: whether it comes before the first step of a start.
        seconds: how long a link is cut, unless all ranks end before.
    """

    kind: str
    node: int
    rank: int
    early: bool = False
    seconds: float = 0.0


def planned(count: int, two_nodes: bool, dice: random.Random) -> list[Kill]:
    """So many kills in random order: each kind as often as its share says, both nodes in turn."""
    shares = ON_TWO_NODES if two_nodes else ON_ONE_NODE
    kinds = [kind for kind, share in shares.items() for _ in range(share)]
    tens = [dice.sample(kinds, len(kinds)) for _ in range(0, count, len(kinds))]
    found = []
    for number, kind in enumerate([kind for ten in tens for kind in ten][:count]):
        node = number % 2 + 1 if two_nodes else 1
        rank = (node - 1) * RANKS_PER_NODE + dice.randrange(RANKS_PER_NODE)
        cut = {SHORT_CUT: _SHORT, LONG_CUT: _LONG}.get(kind)
        found.append(Kill(kind, node, rank, dice.random() < _EARLY, dice.uniform(*cut) if cut else 0.0))
    return found


def carry_out(kill: Kill, start: Start, nodes: Nodes | None, metrics: Path) -> dict[str, Any]:
    """Do it, and wait for what comes of it: `goes_on`, or how and after how many seconds every rank ended.

    Args:
        metrics: the run's file, whose growth shows that it goes on.

    Raises:
        SystemExit: the run neither ends nor goes on.
    """
    began = time.monotonic()
    cut = nodes is not None and kill.kind in (SHORT_CUT, LONG_CUT)
    if nodes is not None and cut:
        nodes.set_link(kill.node, "down")
        start.ended_within(kill.seconds)
        nodes.set_link(kill.node, "up")
    else:
        number = signal.SIGTERM if kill.kind == STOP else signal.SIGKILL
        for rank, process in enumerate(start.processes):
            if kill.kind == STOP or rank == kill.rank or (kill.kind == A_NODE and node_of(rank) == kill.node):
                process.send_signal(number)
    written = _size(metrics)
    while not start.ended_within(1):
        if cut and _size(metrics) > written:
            return {"goes_on": True}
        if time.monotonic() > began + _PATIENCE_SECONDS:
            raise SystemExit(f"{kill}: after {_PATIENCE_SECONDS} s ranks are still there, exit codes {start.codes()}")
    seconds = round(time.monotonic() - began, 1)
    return {"goes_on": False, "seconds_until_gone": seconds, "exit_codes": start.codes(), "said": start.said()}


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0

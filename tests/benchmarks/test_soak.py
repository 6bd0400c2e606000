"""The soak in small: a run of real, separate processes that is killed again and again ends as one left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.disturbance.kills import LONG_CUT, ON_ONE_NODE, ON_TWO_NODES, SHORT_CUT, planned
from benchmarks.disturbance.nodes import LINK, address, two_nodes
from benchmarks.disturbance.start import node_of
from tests.support.runs import ROOT
from tests.support.tiny import save_tiny_model, write_pairs

KILLS = 4


@pytest.mark.parametrize(("two_nodes", "kinds"), [(False, ON_ONE_NODE), (True, ON_TWO_NODES)])
def test_ten_kills_are_of_every_kind_and_on_both_nodes(two_nodes: bool, kinds: dict[str, int]) -> None:
    drawn = [planned(20, two_nodes, random.Random(seed)) for seed in range(5)]
    assert drawn[0] != drawn[1] and drawn[0] == planned(20, two_nodes, random.Random(0))
    for kills in drawn:
        assert Counter(kill.kind for kill in kills[:10]) == kinds
        assert Counter(kill.node for kill in kills[:10]) == ({1: 5, 2: 5} if two_nodes else {1: 10})
        assert all(node_of(kill.rank) == kill.node for kill in kills)
        assert all((kill.seconds > 0) == (kill.kind in (SHORT_CUT, LONG_CUT)) for kill in kills)


def soak(folder: Path, *more: str) -> dict[str, Any]:
    given = {
        "model": save_tiny_model(folder / "model"), "data": write_pairs(folder / "pairs.jsonl", 40),
        "output": folder / "soak.json",
    }  # fmt: skip
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *options, *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return json.loads((folder / "soak.json").read_text())


@pytest.mark.long
@pytest.mark.slow
def test_kills_leave_no_trace(tmp_path: Path) -> None:
    found = soak(tmp_path, "--kills", str(KILLS), "--steps", "150")
    assert found["metrics_equal"] and found["weights_equal"] and len(found["kills"]) == KILLS


needs_nodes = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2")


@needs_nodes
def test_two_nodes_have_names_and_a_link_that_is_cut() -> None:
    def state(node: int) -> str:
        return said(node, "ip", "-br", "link", "show", LINK).split()[1]

    def said(node: int, *command: str) -> str:
        return subprocess.run(nodes.on(node, command), capture_output=True, text=True, check=True).stdout.strip()

    with two_nodes() as nodes:
        assert [said(node, "hostname") for node in (1, 2)] == ["node1", "node2"]
        assert state(1) == state(2) == "UP"
        nodes.set_link(1, "down")
        assert state(1) == "DOWN"
        nodes.set_link(1, "up")
        assert state(1) == "UP" and address(1) in said(1, "ip", "-br", "address")


@needs_nodes
@pytest.mark.long
@pytest.mark.slow
def test_kills_over_two_nodes_leave_no_trace(tmp_path: Path) -> None:
    a_node_a_rank_and_the_link = ("--kills", "3", "--seed", "52")
    found = soak(tmp_path, *a_node_a_rank_and_the_link, "--steps", "60", "--nodes", "2")
    assert found["metrics_equal"] and found["weights_equal"]
    assert {kill["node"] for kill in found["kills"]} == {1, 2}

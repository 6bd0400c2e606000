"""The soak in small: a run of real, separate processes that is killed again and again ends as one left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT
from tests.support.tiny import save_tiny_model, write_pairs

KILLS = 4


@pytest.mark.long
@pytest.mark.slow
def test_kills_leave_no_trace(tmp_path: Path) -> None:
    given = {
        "model": save_tiny_model(tmp_path / "model"), "data": write_pairs(tmp_path / "pairs.jsonl", 40),
        "output": tmp_path / "soak.json", "kills": KILLS, "steps": 150,
    }  # fmt: skip
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["metrics_equal"] and found["weights_equal"] and len(found["kills"]) == KILLS

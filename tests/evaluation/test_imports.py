"""Commands that load no model answer at once: what they import says so, on any machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsepo_dist.evaluation.jobs.store import JobStore
from sparsepo_dist.queueing.job import DONE, State
from tests.support.evaluation_jobs import ROOT, Bench

HEAVY = ("torch", "transformers", "datasets", "huggingface_hub", "lm_eval", "peft", "deepspeed", "submitit", "scipy")
SCRIPT = f"""
import os, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
finally:
    there = [name for name in {HEAVY!r} if name in sys.modules]
    sys.stderr.write('imported: ' + ' '.join(there) + '\\n')
"""


def imported(script: str, *arguments: str) -> tuple[int, set[str]]:
    """How a script ended, and which of HEAVY it imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT / "evaluation" / f"{script}.py"), *arguments],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert last.startswith("imported:"), done.stderr
    return done.returncode, set(last.removeprefix("imported:").split())


@pytest.mark.parametrize("command", ["status", "collect", "submit"])
def test_what_only_looks_at_jobs_imports_no_framework(command: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"a": {}})
    plan = bench.plan
    JobStore(plan.output).add("m0", str(bench.models["m0"]), plan.suites[0]).write(State(DONE, started=2e10))
    assert imported("jobs", command, str(bench.file)) == (0, set())


@pytest.mark.parametrize("script", ["leaderboard", "code", "summary", "frontier", "preference", "significance", "jobs"])
def test_help_and_wrong_options_import_no_framework(script: str) -> None:
    assert imported(script, "--help") == (0, set())
    assert imported(script, "--no_such_option") == (2, set())

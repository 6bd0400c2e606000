"""Why stages are run, and what cleaning leaves."""

from __future__ import annotations

from pathlib import Path

from sparsepo_dist.experiments.stages.clean import clean
from sparsepo_dist.experiments.stages.reasons import reasons
from sparsepo_dist.experiments.stages.temporary import Temporary
from tests.experiments.stages.test_stages import GRID, weights
from tests.support.stages import Bench


def test_why_a_stage_is_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {**GRID, "b": {**GRID["b"], "do": "fail"}})
    assert reasons(bench.work) == dict.fromkeys(GRID, "never run")
    bench.run()
    assert reasons(bench.work) == {"b": "failed: exit code 1: error: it cannot be", "b/score": "never run"}
    bench.described = {**GRID, "a": {**GRID["a"], "beta": 0.8}}
    found = reasons(bench.work)
    assert found["a"] == "differs from the last of its name in beta (None -> 0.8)"
    assert found["a/score"] == "differs from the last of its name in a"
    bench.run()
    bench.described = {**bench.described, "c": {"needs": ["b"]}}
    assert reasons(bench.work)["b"] == "what it left is removed, and needed again"


def test_cleaning_leaves_what_somebody_uses(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {**GRID, "a/score": {**GRID["a/score"], "do": "fail"}})
    bench.run()
    work = bench.work
    user = Temporary(work)
    user.hold("a")
    assert clean(work, results=False).endswith("in use, and not touched: a")
    assert weights(bench) >= {"a"} and "sft" not in weights(bench)
    user.release("a")
    assert clean(work, results=True) == "Results of 5 stages are removed"
    assert reasons(work) == dict.fromkeys(GRID, "never run") and not weights(bench)


def test_cleaning_leaves_what_a_stage_at_work_reads(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"data": {"kept": True}, "a": {"needs": ["data"]}})
    bench.run()
    work = bench.work
    claim = work.jobs["a"].claim()
    assert claim is not None
    with claim:
        assert clean(work, results=True).startswith("Results of 0 stages are removed; in use, and not touched: data, a")
    assert weights(bench) == {"data"}

"""The GPU day without a GPU: what fails is told and ends nothing else, targets are held, and commands are sound."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_day import bench, build, kernels, material, train, training
from benchmarks.gpu_day.__main__ import run_part
from benchmarks.gpu_day.checks import Check, Day, Facts, FailedError, LeftOutError, answer
from benchmarks.step_worker import Measured
from sparsepo_dist.engines.deepspeed.ds_config import load_ds_config, precision
from sparsepo_dist.runs.parsing import parse_train
from tests.support.runs import ROOT


@pytest.fixture
def day(tmp_path: Path) -> Day:
    return Day(tmp_path, time.monotonic() + 60)


def raising(error: BaseException) -> Callable[[Day], Facts]:
    def ask(_: Day) -> Facts:
        raise error

    return ask


def test_each_check_has_an_outcome_and_the_page_ends_with_what_failed(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    day.rehearsed = True
    checks = (
        Check("sound", lambda _: {"figure": 0.12345, "rows": [{"a": 1, "b": 2.5}]}),
        Check("slow kernel", raising(FailedError("0.5 of the bandwidth\nis too little", {"share": 0.5}))),
        Check("no tool", raising(LeftOutError("compute-sanitizer is not there"))),
        Check("broken", raising(ZeroDivisionError("by 0"))),
        Check("gone", raising(SystemExit("a worker failed"))),
    )
    monkeypatch.setattr(train, "CHECKS", checks)
    found = run_part("train", day)
    assert found == json.loads((day.output / "train.json").read_text())
    assert found["failed"] == ["slow kernel", "broken", "gone"] and found["device"] and found["date"]
    assert [check["word"] for check in found["checks"]] == [
        "passed",
        "passed",
        "failed",
        "left out",
        "failed",
        "failed",
    ]
    page = (day.output / "train.md").read_text()
    head, _, end = page.partition("## Failed")
    assert found["device"] in head.splitlines()[0] and "no figure is a GPU's" in head and "| 1 | 2.5 |" in head
    assert "- figure: 0.123" in head and "compute-sanitizer is not there" in head
    assert [line for line in end.splitlines() if line.startswith("- ")] == [
        "- **slow kernel**: 0.5 of the bandwidth", "- **broken**: ZeroDivisionError: by 0",
        "- **gone**: SystemExit: a worker failed",
    ]  # fmt: skip


def test_a_part_that_is_killed_leaves_what_it_found(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = (Check("first", lambda _: {"figure": 1}), Check("killed", raising(KeyboardInterrupt())))
    monkeypatch.setattr(train, "CHECKS", checks)
    with pytest.raises(KeyboardInterrupt):
        run_part("train", day)
    assert json.loads((day.output / "train.json").read_text())["checks"][-1]["facts"] == {"figure": 1}


def test_what_hangs_ends_with_its_children_when_the_time_is_over(day: Day) -> None:
    day.ends = time.monotonic() + 1.5
    outcome = answer(Check("hangs", lambda d: {"said": d.run("sh", "-c", "echo begun; sleep 60 & wait")}), day)
    assert outcome.word == "failed" and "no end after" in outcome.why and "begun" in outcome.why
    late = answer(Check("too late", lambda d: {"said": d.run("true")}), day)
    assert late.word == "failed" and "time was over" in late.why


def test_a_command_that_fails_is_told_with_its_last_words(day: Day) -> None:
    outcome = answer(Check("fails", lambda d: {"said": d.run("sh", "-c", "echo why >&2; exit 3")}), day)
    assert outcome.word == "failed" and "ended with 3" in outcome.why and outcome.why.endswith("why\n")


def test_only_missing_packages_are_installed_and_without_a_network(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    day.wheels = day.output / "wheels"
    day.wheels.mkdir()
    missing = day.wheels / "no_such_thing-1.0-py3-none-any.whl"
    for wheel in (missing, day.wheels / "torch-9.9.9-py3-none-any.whl"):
        wheel.touch()
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Day, "python", lambda _, *arguments, **__: asked.append(arguments))
    assert build.install(day) == ["no_such_thing-1.0-py3-none-any.whl"]
    assert (
        len(asked) == 1
        and "--no-index" in asked[0]
        and asked[0][-1] == day.wheels / "no_such_thing-1.0-py3-none-any.whl"
    )


def test_tests_that_fail_are_named(day: Day) -> None:
    file = day.output / "test_small.py"
    file.write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    with pytest.raises(FailedError, match="test_bad") as failed:
        kernels.pytest(day, "small", str(file), at_most=60)
    assert failed.value.facts["passed"] == 1
    with pytest.raises(FailedError, match="no test ran"):
        kernels.pytest(day, "none", str(file), "-k", "absent", at_most=60)


def test_what_the_sanitizers_run_is_there() -> None:
    asked = (
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "gpu",
        "tests/ops",
        "-k",
        kernels.SMALL,
    )
    listed = subprocess.run([sys.executable, *asked], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "test_cuda.py::" in listed


@pytest.mark.parametrize(("share", "good"), [(0.85, True), (0.7, False)])
def test_kernels_are_held_to_the_copy_bandwidth(
    day: Day, monkeypatch: pytest.MonkeyPatch, share: float, good: bool
) -> None:
    row = {"dtype": "bf16", "vocabulary": 32000, "x eager": 4.0, "seconds": {}}
    rows = [{**row, "rows": n, "share of copy bandwidth": s} for n, s in ((64, 0.1), (4096, share))]  # small: launches

    def bench_ops(_: Day, *arguments: Any, **__: Any) -> str:
        output = Path(arguments[arguments.index("--output") + 1])
        output.write_text(json.dumps({"copy_bytes_per_second": 4e12, "kernels": rows, "operation": []}))
        return ""

    monkeypatch.setattr(Day, "python", bench_ops)
    outcome = answer(Check("share", kernels.bandwidth), day)
    assert outcome.word == ("passed" if good else "failed") and len(outcome.facts["kernels"]) == 2
    assert good or "0.70 (bf16, 4096 x 32000)" in outcome.why


def test_trainings_are_held_against_each_other(day: Day) -> None:
    rows = [{"loss": 0.69, "grad_norm": 3.0, "step": n} for n in range(2)]
    assert training.hold(rows, [{**row, "grad_norm": 3.0006} for row in rows], 1e-3)["steps"] == 2
    with pytest.raises(FailedError, match="differ by 0.01"):
        training.hold(rows, [{**row, "loss": 0.68} for row in rows], 2e-3)
    with pytest.raises(FailedError, match="2 steps against 1"):
        training.hold(rows, rows[:1], 1.0)
    written = [{"split": "train", **rows[0]}, {"split": "train", **rows[1], "loss": float("nan")}]
    (day.output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    with pytest.raises(FailedError, match=r"steps \[1\]"):
        training.steps_of(day.output)


def test_every_training_is_one_that_can_be_asked_for(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU: options are read, and ds_configs agree with precisions there."""
    monkeypatch.setattr(material, "model", lambda *_: "builtin:smollm2-135m-instruct")
    asked: dict[str, Mapping[str, Any]] = {}

    def note(_: Day, name: str, given: Mapping[str, Any], __: Any = None) -> list[dict[str, Any]]:
        asked[name] = given
        return [{"loss": 0.6931, "grad_norm": 1.0, "tokens_per_second": 1.0}]

    def caching(_: Day, given: Mapping[str, Any]) -> None:
        asked["cache"] = given

    monkeypatch.setattr(train, "train", note)
    monkeypatch.setattr(train, "resume", note)
    monkeypatch.setattr(train, "write_cache", caching)
    monkeypatch.setattr(train, "steps_of", lambda _: [{"tokens_per_second": 1.0}])
    (day.output / "whole" / "final").mkdir(parents=True)
    outcomes = [answer(check, day) for check in train.CHECKS]
    assert [outcome.word for outcome in outcomes] == ["passed"] * len(outcomes), outcomes
    dtypes = {}
    for name, given in asked.items():
        config = parse_train([f"--{field}={value}" for field, value in given.items()])
        config.validate()
        dtypes[name] = precision(load_ds_config(config.ds_config), config.training.precision, torch.device("cuda"))
    assert {"zero-3", "cache", "cached", "qlora", "small-on-cpu"} <= set(asked)
    assert dtypes["fp16"] == torch.float16 and dtypes["bf16"] == torch.bfloat16 and dtypes["zero-0"] == torch.float32


@pytest.mark.parametrize(("peak", "word"), [(1.05e9, "passed"), (1.2e9, "failed")])
def test_memory_is_held_to_the_plan(day: Day, monkeypatch: pytest.MonkeyPatch, peak: float, word: str) -> None:
    found = Measured([1.0], [0.7], int(peak), 0, [[[10, 5, 5]]])
    monkeypatch.setattr(material, "model", lambda *_: day.output)
    monkeypatch.setattr(bench, "step", lambda *_: found)

    def plan(_: Day, *arguments: str, **__: Any) -> str:
        file = next(argument for argument in arguments if argument.startswith("--json="))
        Path(file.removeprefix("--json=")).write_text(json.dumps({"peak": {"phase": "head", "bytes": 1e9}}))
        assert "--tokens_per_pair=18.0" in arguments and "--device=cuda" in arguments
        return ""

    monkeypatch.setattr(Day, "python", plan)
    outcome = answer(Check("memory", lambda d: bench.planned("410m", d)), day)
    assert outcome.word == word and outcome.facts["off by"] == pytest.approx(peak / 1e9 - 1)


def test_pairs_of_random_words_are_as_long_as_those_of_hh(day: Day) -> None:
    rows = [json.loads(line) for line in material.pairs(day, 400).read_text().splitlines()]
    packed = [len(row["prompt"]) + len(row["chosen"]) + len(row["rejected"]) - 2 for row in rows]
    assert sum(packed) / len(packed) == pytest.approx(215, rel=0.1)
    assert all(row["chosen"] != row["rejected"] for row in rows)

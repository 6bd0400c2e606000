"""PART=kernels: the fused operation and attention against plain PyTorch, sanitized, and held to the copy bandwidth."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu_day.checks import Check, Day, Facts, FailedError, LeftOutError

SMALL = "1000-7"  # of tests/ops/test_cuda.py: a vocabulary of 1000, 7 rows
SHARE = 0.8
"""Of the measured copy bandwidth, that kernels are to reach where there is enough to copy."""
ENOUGH_ROWS = 1024


def tests(day: Day) -> Facts:
    """Every test that is marked `gpu`; in a rehearsal the CUDA source on the CPU, against the formulas."""
    chosen = ("tests/ops/test_cuda_source.py", "-k", "on_a_cpu and plain") if day.rehearsed else (
        "-m", "gpu", "tests/ops", "tests/engines",
    )  # fmt: skip
    return pytest(day, "tests", *chosen, at_most=300)


def memcheck(day: Day) -> Facts:
    """No kernel reads or writes what is not its own: small cases under compute-sanitizer; rehearsed by ASan, UBSan."""
    return _sanitized(day, "memcheck")


def racecheck(day: Day) -> Facts:
    """No two threads of a block race for shared memory."""
    if day.rehearsed:
        raise LeftOutError("threads run one after the other on a CPU")
    return _sanitized(day, "racecheck")


def bandwidth(day: Day) -> Facts:
    """`make bench-ops`, and the kernels' share of the copy bandwidth."""
    output = day.output / "ops.json"
    quick = ("--quick", "--rounds", "1") if day.rehearsed else ("--rounds", "3")
    day.python("-m", "benchmarks.ops", "--output", output, *quick, at_most=240)
    found = json.loads(output.read_text())
    share = "share of read bandwidth" if day.rehearsed else "share of copy bandwidth"
    columns = ("dtype", "vocabulary", "rows", "x eager", share)
    facts = {
        "copy bandwidth, GB/s": found["copy_bytes_per_second"] / 1e9,
        "kernels": [{column: row[column] for column in columns} for row in found["kernels"]],
        "operation": [
            {name: value for name, value in row.items() if name != "seconds"} for row in found["operation"]
        ],
    }  # fmt: skip
    slow = [row for row in found["kernels"] if row["rows"] >= ENOUGH_ROWS and row[share] < SHARE]
    if slow:
        told = ", ".join(f"{row[share]:.2f} ({row['dtype']}, {row['rows']} x {row['vocabulary']})" for row in slow)
        raise FailedError(f"below {SHARE} of the copy bandwidth: {told}", facts)
    return facts


def pytest(day: Day, name: str, *arguments: str, before: tuple[str, ...] = (), at_most: float) -> Facts:
    """Run tests; how many there were.

    Raises:
        FailedError: one of them failed, or none ran; each is named.
    """
    report = day.output / f"{name}.xml"
    report.unlink(missing_ok=True)
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments)
    refusal = ""
    try:
        day.run(*before, sys.executable, *command, at_most=at_most)
    except FailedError as failure:
        refusal = str(failure)
    facts = _counted(report)
    if refusal or not facts.get("passed"):
        named = "\n".join(facts.get("failing", [])) or "no test ran"
        raise FailedError(f"{named}\n{refusal}", facts)
    return facts


def _sanitized(day: Day, tool: str) -> Facts:
    if day.rehearsed:
        return pytest(day, tool, "tests/ops/test_cuda_source.py", "-k", "on_a_cpu and sanitized", at_most=300)
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        raise LeftOutError("compute-sanitizer is not there: it comes with the CUDA toolkit")
    # Exit code 9 is the sanitizer's own, so that what it finds is told from a test that fails.
    before = (sanitizer, "--tool", tool, "--error-exitcode", "9")
    return pytest(day, tool, "-m", "gpu", "tests/ops", "-k", SMALL, before=before, at_most=150)


def _counted(report: Path) -> Facts:
    if not report.is_file():
        return {}
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    facts: Facts = {"passed": len(cases) - len(bad) - len(skipped), "skipped": len(skipped)}
    if bad:
        facts["failing"] = [f"{case.get('classname')}::{case.get('name')}" for case in bad]
    return facts


CHECKS = (
    Check("tests on the GPU", tests), Check("memcheck", memcheck), Check("racecheck", racecheck),
    Check("share of the copy bandwidth", bandwidth),
)  # fmt: skip

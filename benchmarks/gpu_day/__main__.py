"""One part of a GPU day; `make gpu-day PART=build|kernels|train|bench`.

    python -m benchmarks.gpu_day PART [--output FOLDER] [--data FOLDER] [--wheels FOLDER] [--minutes 10] [--rehearse]

Writes FOLDER/PART.json and FOLDER/PART.md after every check, and ends with what failed. Needs no network; the exit code
is 1 where something failed.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_day import build
from benchmarks.gpu_day.checks import Day, Facts, Outcome, answer, write_results
from benchmarks.gpu_day.page import as_page
from benchmarks.worker import ROOT

PARTS = ("build", "kernels", "train", "bench")


def describe(day: Day) -> Facts:
    """What the figures depend on; says so where there is no torch yet, or no GPU."""
    today = time.strftime("%Y-%m-%d")
    try:
        import torch

        from benchmarks import measure

        facts: Facts = {"device": "no GPU that torch sees", "torch": torch.__version__, "date": today}
        if torch.cuda.is_available() or day.rehearsed:
            facts = measure.describe(torch.device(day.device))
        facts["cuda"] = torch.version.cuda
    except ImportError as error:
        facts = {"device": f"unknown: torch is not there ({error})", "date": today}
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {**facts, "commit": said.stdout.strip()[:12], "rehearsed": day.rehearsed}


def run_part(part: str, day: Day) -> Facts:
    """Make every check of a part in turn; what was found, as it stands in PART.json."""
    day.output.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    head: dict[str, Any] = {"part": part, **describe(day)}
    first = () if part == "build" else (build.PACKAGES,)  # machines that are lent for a command are bare each time
    for check in (*first, *importlib.import_module(f"benchmarks.gpu_day.{part}").CHECKS):
        print(f"{check.name} ...", end=" ", flush=True)
        outcomes.append(answer(check, day))
        print(f"{outcomes[-1].word}, {outcomes[-1].seconds:.0f} s", flush=True)
        found = write_results(day.output / f"{part}.json", head, outcomes)
        (day.output / f"{part}.md").write_text(as_page(found), encoding="utf-8")
    return found


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--output", type=Path, default=Path(tempfile.gettempdir()) / "gpu-day")
    parser.add_argument("--data", type=Path, help="folder of hh_harmless_base.jsonl (default: random words)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, for packages that are missing")
    parser.add_argument("--minutes", type=float, default=9.5, help="after which nothing runs any more")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, at tiny sizes")
    given = parser.parse_args()
    data = given.data if given.data is not None and given.data.is_dir() else None
    day = Day(
        given.output.resolve(), time.monotonic() + 60 * given.minutes, given.rehearse, data and data.resolve(),
        given.wheels and given.wheels.resolve(),
    )  # fmt: skip
    found = run_part(given.part, day)
    print("\n" + (day.output / f"{given.part}.md").read_text(encoding="utf-8"))
    return int(bool(found["failed"]))


if __name__ == "__main__":
    sys.exit(main())

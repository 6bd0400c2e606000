"""`sparsepo demo`: the whole sentiment experiment, from nothing to a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sparsepo_dist.files import path_argument


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="sparsepo demo", description="Run the whole sentiment experiment.")
    parser.add_argument("--output_dir", type=path_argument, help="folder of the run (default: runs/demo-DATE-TIME)")
    given = parser.parse_args(arguments)

    from sparsepo_dist.commands.entry import guarded, say
    from sparsepo_dist.experiments.sentiment.demo import run_demo, summary

    return guarded(lambda: say(summary(run_demo(given.output_dir))))

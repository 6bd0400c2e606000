"""`sparsepo report`: the figures and pages of a run, drawn again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sparsepo_dist.files import path_argument


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="sparsepo report", description="Draw the figures and pages of a run again.")
    parser.add_argument("run", type=path_argument, help="folder of the run")
    given = parser.parse_args(arguments)

    from sparsepo_dist.commands.entry import guarded, say
    from sparsepo_dist.report.build import build_report

    return guarded(lambda: say("\n".join(map(str, build_report(given.run)))))

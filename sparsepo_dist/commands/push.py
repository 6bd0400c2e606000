"""`sparsepo push`: a finished run's model, masks, card and report on a hub."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sparsepo_dist.files import argument, path_argument


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="sparsepo push",
        description="Put a finished run's model, masks, card and report on a hub. The report shows the run's "
        "configuration and held-out texts.",
    )
    parser.add_argument("run", type=path_argument, help="folder of the run")
    parser.add_argument("repository", type=argument, help="OWNER/NAME; made if it is not there")
    parser.add_argument("--private", action="store_true", help="make the repository a private one")
    given = parser.parse_args(arguments)

    from sparsepo_dist.commands.entry import guarded

    return guarded(_push, given.run, given.repository, given.private)


def _push(run: Path, repository: str, private: bool) -> None:
    from sparsepo_dist.commands.entry import say
    from sparsepo_dist.report.hub import files_to_push, push
    from sparsepo_dist.report.pages.build import build_report

    files_to_push(run)  # before anything is drawn
    build_report(run)
    say(f"{run} is in {push(run, repository, private=private)}")

"""`sparsepo report`: one page of runs and results, and a run's figures and model card, drawn again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sparsepo_dist.files import path_argument

_WATCH_SECONDS = 10.0


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="sparsepo report",
        description="Draw runs beside each other on one page that needs no network. Of one run, its figures and model "
        "card are drawn again too.",
    )
    parser.add_argument(
        "run",
        type=path_argument,
        nargs="+",
        help="folder of a run, going on or finished, or of an evaluation's results",
    )
    parser.add_argument(
        "--output", type=path_argument, metavar="FILE.html",
        help="the page (default: RUN/report/index.html, RESULTS/index.html; of several, report.html here)",
    )  # fmt: skip
    parser.add_argument(
        "--watch", type=_seconds, nargs="?", const=_WATCH_SECONDS, metavar="SECONDS",
        help=f"draw again every so many seconds ({_WATCH_SECONDS:g}) until all runs are finished; an open page follows",
    )  # fmt: skip
    given = parser.parse_args(arguments)

    from sparsepo_dist.commands.entry import guarded

    return guarded(_report, given.run, given.output, given.watch)


def _report(folders: list[Path], output: Path | None, seconds: float | None) -> None:
    from sparsepo_dist.commands.entry import say
    from sparsepo_dist.report.pages.build import build_report, watch, write_page
    from sparsepo_dist.report.reading import is_run

    path = output or _default(folders, is_run(folders[0]))
    if seconds is not None:
        say(f"Open {path} in a browser; Ctrl-C ends this, the page stays")
        watch(folders, path, seconds)  # what trains draws its own figures
        say(f"All runs are finished: {path}")
    elif output is None and len(folders) == 1 and is_run(folders[0]):
        say("\n".join(map(str, build_report(folders[0]))))
    else:
        write_page(folders, path)
        say(str(path))


def _default(folders: list[Path], run: bool) -> Path:
    if len(folders) > 1:
        return Path("report.html")
    return folders[0] / "report" / "index.html" if run else folders[0] / "index.html"


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("from 1 to 86400 seconds")
    return seconds

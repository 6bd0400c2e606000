#!/usr/bin/env python3
"""Open LLM Leaderboard v2 through lm-eval: read the command line, evaluate, say where the tables are."""

import sys
from pathlib import Path

# Python puts the script's folder first on its path, where code.py would be taken for the standard library's module.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    del sys.path[0]


def main() -> int:
    """One rank's part of the evaluation; its exit code."""
    from sparsepo_dist.evaluation.leaderboard.command import parse_options

    options = parse_options()
    # Only now: what these import asks at once whether the hub may be reached.
    from sparsepo_dist.commands.entry import guarded, say
    from sparsepo_dist.evaluation.leaderboard.run import run_leaderboard

    return guarded(run_leaderboard, options, say)


if __name__ == "__main__":
    sys.exit(main())

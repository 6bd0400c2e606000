#!/usr/bin/env python3
"""Open LLM Leaderboard v2 through lm-eval: read the command line, evaluate, say where the tables are."""

import sys

from sparsepo_dist.evaluation.script_folder import leave_script_folder

leave_script_folder(__file__)


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

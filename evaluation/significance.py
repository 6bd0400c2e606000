#!/usr/bin/env python3
"""Say which differences between models' summaries are more than chance."""

import sys
from pathlib import Path

# The sibling code.py would be taken for the standard library's module.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from sparsepo_dist.commands.entry import guarded, say  # noqa: E402
from sparsepo_dist.evaluation.summary.significance import significance  # noqa: E402


def main() -> None:
    """Print a matrix for each metric and temperature."""
    say(significance())


if __name__ == "__main__":
    sys.exit(guarded(main))

#!/usr/bin/env python3
"""Reward against response-level KL of many models: table, Pareto frontier, hypervolume, figure."""

import sys
from pathlib import Path

# The sibling code.py would be taken for the standard library's module.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from sparsepo_dist.commands.entry import guarded, say  # noqa: E402
from sparsepo_dist.evaluation.frontier.command import frontier  # noqa: E402


def main() -> None:
    """Write the table and the figure, and print the table."""
    table = frontier()
    say(f"{table.read_text(encoding='utf-8')}\nTable and figure are in {table.parent}.")


if __name__ == "__main__":
    sys.exit(guarded(main))

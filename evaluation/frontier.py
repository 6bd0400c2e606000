#!/usr/bin/env python3
"""Reward against response-level KL of many models: table, Pareto frontier, hypervolume, figure."""

import sys

from sparsepo_dist.evaluation.script_folder import leave_script_folder

leave_script_folder(__file__)

from sparsepo_dist.commands.entry import guarded, say  # noqa: E402
from sparsepo_dist.evaluation.frontier.command import frontier  # noqa: E402


def main() -> None:
    """Write the table and the figure, and print the table."""
    table = frontier()
    say(f"{table.read_text(encoding='utf-8')}\nTable and figure are in {table.parent}.")


if __name__ == "__main__":
    sys.exit(guarded(main))

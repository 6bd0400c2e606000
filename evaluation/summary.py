#!/usr/bin/env python3
"""Sample and measure TL;DR summaries of one or several models."""

import sys
from pathlib import Path

from sparsepo_dist.evaluation.script_folder import leave_script_folder

leave_script_folder(__file__)

from sparsepo_dist.commands.entry import guarded, say  # noqa: E402
from sparsepo_dist.evaluation.summary.command import summary  # noqa: E402


def main() -> None:
    """Write the table and print it."""
    table = summary()
    say(f"{table.read_text(encoding='utf-8')}\nThe table is in {table}. Which differences are more than chance:")
    say(f"python {Path(__file__).with_name('significance.py')} {table.parent}")


if __name__ == "__main__":
    sys.exit(guarded(main))

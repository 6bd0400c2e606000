#!/usr/bin/env python3
"""Held-out pairs by implicit reward; responses against others' under a reward model or by a judge."""

import sys

from sparsepo_dist.evaluation.script_folder import leave_script_folder

leave_script_folder(__file__)

from sparsepo_dist.commands.entry import guarded, say  # noqa: E402
from sparsepo_dist.evaluation.preference.command import preference  # noqa: E402


def main() -> None:
    """Write the table and print it."""
    table = preference()
    say(f"{table.read_text(encoding='utf-8')}\nThe table is in {table}.")


if __name__ == "__main__":
    sys.exit(guarded(main))

#!/usr/bin/env python3
"""Say which differences between models' summaries are more than chance."""

import sys

from sparsepo_dist.evaluation.script_folder import leave_script_folder

leave_script_folder(__file__)

from sparsepo_dist.commands.entry import guarded, say  # noqa: E402
from sparsepo_dist.evaluation.summary.significance import significance  # noqa: E402


def main() -> None:
    """Print a matrix for each metric and temperature."""
    say(significance())


if __name__ == "__main__":
    sys.exit(guarded(main))

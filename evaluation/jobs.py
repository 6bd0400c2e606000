#!/usr/bin/env python3
"""Evaluation jobs from a YAML file: run them, follow a training run, show and gather."""

import sys
from pathlib import Path

from sparsepo_dist.evaluation.script_folder import leave_script_folder

leave_script_folder(__file__)

from sparsepo_dist.commands.entry import guarded, say  # noqa: E402
from sparsepo_dist.evaluation.jobs.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:], Path(__file__).resolve().parent, say))

#!/usr/bin/env python3
"""Evaluation jobs from a YAML file: run them, follow a training run, show and gather."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Python puts a script's folder first, where code.py would stand for the standard library's module.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]

from sparsepo_dist.commands.entry import guarded, say  # noqa: E402
from sparsepo_dist.evaluation.jobs.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:], HERE, say))

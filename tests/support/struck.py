"""launch/train.py with a fault: `python -m tests.support.struck '{"kind": ...}' ARGUMENTS`."""

from __future__ import annotations

import json
import sys

from sparsepo_dist.commands.entry import guarded
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.run import run
from tests.support.faults import injected


def main() -> None:
    """One rank's part."""
    rank_option, others = [], []
    for argument in sys.argv[1:]:  # the deepspeed launcher puts its own option first
        (rank_option if argument.startswith("--local_rank") else others).append(argument)
    with injected(json.loads(others[0])):
        run(parse_train([*rank_option, *others[1:]]))


if __name__ == "__main__":
    sys.exit(guarded(main))

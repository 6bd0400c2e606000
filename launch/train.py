#!/usr/bin/env python3
"""Train a policy: parse, run, say where the results are."""

import sys
from pathlib import Path

from sparsepo_dist.commands.entry import guarded, say
from sparsepo_dist.engines.deepspeed.ranks import rank
from sparsepo_dist.runs.first.mistakes import check_at_once
from sparsepo_dist.runs.parsing import parse_train


def main() -> None:
    """One rank's part of the training."""
    config = parse_train(default_recipe=Path(__file__).parent / "recipes" / "sentiment.yaml")
    check_at_once(config)
    from sparsepo_dist.report.pages.build import try_report  # these load what computes
    from sparsepo_dist.runs.run import run

    folder = run(config)
    say(f"The run is in {folder}: final/ is the model.")
    if rank() == 0 and try_report(folder):
        say(f"{folder}/report/index.html shows what happened.")


if __name__ == "__main__":
    sys.exit(guarded(main))

"""A training up to its first step, and when each part of it began: JSON on the last line.

python -m benchmarks.start_worker '{"began": SECONDS SINCE THE EPOCH, "arguments": [...]}'
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import dataclass, field

from sparsepo_dist.training.supervision.progress import Progress

FIRST_STEP = "the first step"


@dataclass
class Start:
    """What is measured."""

    began: float
    """When the command was given, as time.time() has it."""
    arguments: list[str] = field(default_factory=list)
    """Of launch/train.py."""


class FirstStepDone(BaseException):
    """Nothing catches it on its way out."""


def main() -> None:
    """Run what launch/train.py runs, as it does, and stop after the first step."""
    work = Start(**json.loads(sys.argv[1]))
    marks = [("the interpreter", work.began)]

    def mark(part: str) -> None:
        marks.append((part, time.time()))

    mark("the command line")
    from sparsepo_dist.runs.first.mistakes import check_at_once
    from sparsepo_dist.runs.parsing import parse_train

    config = parse_train(work.arguments)
    check_at_once(config)
    mark("torch, transformers, DeepSpeed")
    from sparsepo_dist.runs.run import run

    at = Progress.at

    def marked(self: Progress, doing: str, *, step: int | None = None) -> None:
        if self.step == 1 and doing == "agreeing on what comes next":
            raise FirstStepDone
        mark(FIRST_STEP if 1 in (self.step, step) else doing)
        at(self, doing, step=step)

    Progress.at = marked  # type: ignore[method-assign]
    mark("configurations, tokenizer, data")
    try:
        run(config)
    except FirstStepDone:
        mark("")
    seconds: dict[str, float] = {}
    for (part, since), (_, until) in itertools.pairwise(marks):
        seconds[part] = seconds.get(part, 0.0) + until - since
    print("\n" + json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()

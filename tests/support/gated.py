"""launch/train.py that waits for a file before a step: `python -m tests.support.gated STEP FILE ARGUMENTS`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sparsepo_dist.commands.entry import guarded
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.run import run
from sparsepo_dist.training.trainer import Trainer


def main() -> None:
    """One rank's part."""
    gate, train_step = Path(sys.argv[2]), Trainer.train_step

    def waiting(self: Trainer, step: int) -> Any:
        while step == int(sys.argv[1]) and not gate.exists():
            time.sleep(0.02)
        return train_step(self, step)

    with patch.object(Trainer, "train_step", waiting):
        run(parse_train(sys.argv[3:]))


if __name__ == "__main__":
    sys.exit(guarded(main))

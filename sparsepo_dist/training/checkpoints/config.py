"""What is told of checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sparsepo_dist.errors import UserError


@dataclass
class CheckpointConfig:
    """When a run saves what it needs to go on, in its folder's checkpoints/. A signal to stop always does."""

    every_steps: int = 0
    """A checkpoint after every so many optimizer steps; 0: none."""
    every_minutes: float = 30.0
    """A checkpoint when the last one is so many minutes old; 0: none."""
    keep_last: int = 2
    """How many of the newest are kept."""
    keep_best: str | None = None
    """Metric of the evaluation on held-out pairs (`loss`, `rewards/accuracies`, ...): a checkpoint is written whenever
    it is better than ever, and the best one is kept besides the newest."""
    best_is: Literal["lowest", "highest"] = "lowest"
    """Which value of that metric is best."""
    export_every_steps: int = 0
    """The model as in final/, in exported/step-N, after every so many optimizer steps but the last; 0: never."""
    final: Literal["last", "best"] = "last"
    """What a run ends as, in final/: the model after its last step, or that of the best evaluation, by keep_best."""

    def validate(self) -> None:
        """Raise UserError for values that cannot work."""
        for name, least in (("every_steps", 0), ("every_minutes", 0), ("keep_last", 1), ("export_every_steps", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise UserError(f"checkpoints.{name}: {getattr(self, name)} must be a number of at least {least}")
        if self.final == "best" and self.keep_best is None:
            raise UserError(
                "checkpoints.final: best needs to know what is best: name a metric of the evaluation with "
                "checkpoints.keep_best (loss)"
            )

"""What the training room is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sparsepo_dist.errors import UserError
from sparsepo_dist.training.trackers import missing_tracker


@dataclass
class TrainingConfig:
    """Optimisation. Fields that a ds_config can hold too are filled from it where the recipe is silent (null)."""

    epochs: float = 1.0
    """Passes over the training pairs."""
    max_steps: int | None = None
    """Stop after this many optimizer steps, whatever `epochs` says."""
    pairs_per_step: int | None = None
    """Pairs of one optimizer step, over all ranks; ds_config's train_batch_size. 64 where both are silent."""
    learning_rate: float | None = None
    """Peak learning rate of the policy; 1e-6 where recipe and ds_config are silent."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay from the peak to 0 after the warm-up."""
    warmup_ratio: float = 0.1
    """Share of all steps in which the learning rate rises linearly from 0."""
    weight_decay: float | None = None
    """AdamW weight decay of the policy's matrices; 0 where recipe and ds_config are silent."""
    betas: tuple[float, float] | None = None
    """AdamW betas; (0.9, 0.999) where recipe and ds_config are silent."""
    eps: float | None = None
    """AdamW epsilon; 1e-8 where recipe and ds_config are silent."""
    max_grad_norm: float | None = None
    """Gradient clipping; 1.0 where recipe and ds_config are silent, 0 turns it off."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Numbers that models compute in (optimizer state is always fp32). `auto` follows the ds_config, and bf16
    arithmetic where that says "auto" and the hardware has it."""
    evaluate_every: int = 0
    """Evaluate on the held-out pairs every so many steps, besides before the first and after the last; 0: only then."""
    full_metrics_every: int = 10
    """Log-probabilities and KL before the mask need every token: they are reported every so many steps. In between,
    tokens whose masks are both 0 are skipped, which changes neither loss nor gradient and saves their head products."""
    max_skipped_steps: int = 5
    """Steps with NaN or Inf in the loss or the gradient change nothing and are reported with their rows; one more
    than so many in a run ends it."""
    sequence_parallel: int = 1
    """How many ranks compute each micro-batch between them, its packed tokens shared out, so that each holds that part
    of its activations. It must divide the ranks and the models' attention heads (docs/scaling.md)."""
    hang_minutes: float = 15.0
    """A run in which nothing moves for so long is ended, with a message that says which rank hangs and where; 0: never.
    It must be longer than writing a checkpoint or one micro-batch ever takes; files being read or written is moving."""
    track: list[Literal["wandb", "mlflow", "trackio"]] = field(default_factory=list)
    """Trackers that get every row of metrics.jsonl, as one run however often it is resumed. They have to be installed,
    and are told where to write by their own environment variables."""
    seed: int = 0
    """Seed of the sample order, the initial values of masks and adapters, random masks and dropout; below 2**32."""

    DEFAULTS = {  # noqa: RUF012  (not a field)
        "training.pairs_per_step": 64,
        "training.learning_rate": 1e-6,
        "training.weight_decay": 0.0,
        "training.betas": (0.9, 0.999),
        "training.eps": 1e-8,
        "training.max_grad_norm": 1.0,
    }

    def shared(self) -> dict[str, Any]:
        """The fields that a ds_config can hold too, None where the recipe is silent."""
        return {name: getattr(self, name.removeprefix("training.")) for name in self.DEFAULTS}

    def validate(self) -> None:
        """Raise UserError for values that cannot work."""
        checks = {
            "epochs": (0 < self.epochs <= _MOST_EPOCHS, f"greater than 0, and at most {_MOST_EPOCHS}"),
            "max_steps": (self.max_steps is None or self.max_steps > 0, "greater than 0"),
            "warmup_ratio": (0 <= self.warmup_ratio <= 1, "in [0, 1]"),
            "evaluate_every": (self.evaluate_every >= 0, "0 or more"),
            "full_metrics_every": (self.full_metrics_every > 0, "greater than 0"),
            "max_skipped_steps": (self.max_skipped_steps >= 0, "0 or more"),
            "sequence_parallel": (self.sequence_parallel > 0, "greater than 0"),
            "hang_minutes": (0 <= self.hang_minutes < math.inf, "0 (never) or more, and finite"),
            "seed": (0 <= self.seed < 2**32, "in [0, 2**32)"),
        }
        for name, (good, wanted) in checks.items():
            if not good:
                raise UserError(f"training.{name}: {getattr(self, name)} is out of range; it must be {wanted}")
        missing = missing_tracker(self.track)
        if missing is not None:
            raise UserError(f"training.track: {missing} is not installed: pip install {missing}, or leave it out")
        check_shared({name: value for name, value in self.shared().items() if value is not None})


def check_shared(values: Mapping[str, Any]) -> None:
    """Raise UserError for values out of range among those that a ds_config can hold too."""
    for name, value in values.items():
        good, wanted = _SHARED_RANGES[name]
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(map(good, numbers)):
            raise UserError(f"{name}: {value} is out of range; it must be {wanted}")


_MOST_EPOCHS = 1_000_000
_SHARED_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "training.pairs_per_step": (lambda value: 0 < value < 2**31, "a whole number greater than 0, and less than 2**31"),
    "training.learning_rate": (lambda value: 0 <= value <= 1, "in [0, 1]"),
    "training.weight_decay": (lambda value: 0 <= value < math.inf, "0 or more, and finite"),
    "training.betas": (lambda value: 0 <= value < 1, "two numbers in [0, 1)"),
    "training.eps": (lambda value: 0 < value <= 1, "greater than 0, and at most 1"),
    "training.max_grad_norm": (lambda value: 0 <= value < math.inf, "0 (no clipping) or more, and finite"),
}

"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no state of them."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, total_steps: int, kind: str, warmup_ratio: float) -> float:
    """Factor of the peak learning rate at optimizer step `step` (0-based) of `total_steps`.

    Linear warm-up over ceil(warmup_ratio x total_steps) steps, the first of them above 0; then cosine or linear
    decay that would reach 0 at `total_steps`, or constant.
    """
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if kind == "linear" else 1.0

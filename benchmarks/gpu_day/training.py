"""Short trainings by launch/train.py, and their metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_day import material
from benchmarks.gpu_day.checks import Day, FailedError

Rows = list[dict[str, Any]]
STEPS = 4
COMPARED = ("loss", "grad_norm", "logps/chosen", "logps/rejected", "rewards/margins", "kl/chosen", "kl/rejected")
"""Metrics of a step that two trainings are held against each other by, where they have them."""
CPU = {"CUDA_VISIBLE_DEVICES": ""}


def fields(day: Day, size: str = "410m", **changed: Any) -> dict[str, Any]:
    """A training of STEPS steps of 8 pairs on one rank: full SparsePO in fp32 under ZeRO-0, but for what is changed;
    dots of names are written as two underscores."""
    given = {name.replace("__", "."): value for name, value in changed.items()}
    return {
        "model.path": material.model(day, size), "data.train": material.pairs(day, 64), "data.max_length": 1024,
        "data.max_prompt_length": 512, "objective.name": "sparsepo", "training.max_steps": STEPS,
        "training.pairs_per_step": 8, "training.precision": "fp32", "training.learning_rate": 1e-5,
        "training.schedule": "constant", "training.warmup_ratio": 0.0, "training.full_metrics_every": 1,
        "ds_config": ds_config(day, 0), **given,
    }  # fmt: skip


def ds_config(day: Day, stage: int, **sections: Any) -> Path:
    """A ds_config's file: a ZeRO stage, and sections besides."""
    config = {
        "train_batch_size": "auto", "gradient_clipping": "auto", "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": stage},
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "fused": True}}, **sections,
    }  # fmt: skip
    file = day.output / f"ds-{stage}{''.join(f'-{name}' for name in sections)}.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return file


def train(day: Day, name: str, given: Mapping[str, Any], more: Mapping[str, str] | None = None) -> Rows:
    """Train into OUTPUT/NAME, unless it has been; the metrics of its steps.

    Raises:
        FailedError: the run ended with an error, or a metric is not finite.
    """
    folder = day.output / name
    if not (folder / "final").is_dir():
        options = [f"--{field}={value}" for field, value in {**given, "output_dir": folder}.items()]
        day.python("launch/train.py", *options, "--overwrite=true", more=more)
    return steps_of(folder)


def resume(day: Day, name: str, given: Mapping[str, Any]) -> Rows:
    """Go on in OUTPUT/NAME, from its newest checkpoint; the metrics of all steps."""
    options = [f"--{field}={value}" for field, value in {**given, "output_dir": day.output / name}.items()]
    day.python("launch/train.py", *options, "--resume=auto")
    return steps_of(day.output / name)


def write_cache(day: Day, given: Mapping[str, Any]) -> None:
    """What the reference says of every pair, on one rank."""
    day.python("launch/cache.py", *(f"--{field}={value}" for field, value in given.items()), "--all_layers=true")


def steps_of(folder: Path) -> Rows:
    """Metrics of a run's training steps.

    Raises:
        FailedError: a loss or gradient is not finite, or there is no step.
    """
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    wrong = [row["step"] for row in rows if not all(math.isfinite(row[name]) for name in ("loss", "grad_norm"))]
    if wrong or not rows:
        raise FailedError(f"{folder.name}: no step, or loss or gradient is not finite in steps {wrong}")
    return rows


def difference(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> float:
    """The greatest of any metric of COMPARED in any step: of itself, or absolute below 1.

    Raises:
        FailedError: there are not as many steps.
    """
    if len(rows) != len(others):
        raise FailedError(f"{len(rows)} steps against {len(others)}")
    return max(
        abs(row[name] - other[name]) / max(1.0, abs(other[name]))
        for row, other in zip(rows, others, strict=True)
        for name in COMPARED
        if name in row and name in other
    )


def hold(rows: Rows, others: Rows, bound: float) -> dict[str, Any]:
    """The difference of two trainings. Raises FailedError where it is greater than a bound."""
    found = {"greatest difference": difference(rows, others), "bound": bound, "steps": len(rows)}
    if found["greatest difference"] > bound:
        losses = {"losses": [row["loss"] for row in rows], "of the other": [row["loss"] for row in others]}
        told = f"they differ by {found['greatest difference']:.2g}, more than {bound:.2g}"
        raise FailedError(told, {**found, **losses})
    return found

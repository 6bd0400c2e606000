"""Metrics over the global batch: weighted sums on each rank, one reduction a step, one line in metrics.jsonl."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.training.trackers import Trackers


class MetricSums:
    """Means over the pairs of all micro-batches and ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor], pair_weight: Tensor) -> None:
        """Add per-pair `values` [P], each pair counted `pair_weight` [P] (the global batch's weights sum to 1)."""
        for name, value in values.items():
            # where, not a product: a filler pair's value may be infinite
            total = torch.where(pair_weight > 0, value.double() * pair_weight, 0.0).sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total

    def reduce(self) -> dict[str, float]:
        """Means over the global batch, the same on every rank. Every rank must have added the same names."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        values = torch.stack([self._sums[name] for name in names])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(values)
        self._sums.clear()
        return dict(zip(names, values.tolist(), strict=True))


class MetricsWriter:
    """metrics.jsonl, DeepSpeed's monitors and trackers, on rank 0; nothing elsewhere."""

    def __init__(self, path: Path, monitor: Any, trackers: Trackers, keep_bytes: int | None = None) -> None:
        """`keep_bytes`: of a file that is there, what was written up to the checkpoint that the run goes on from."""
        self._file = path.open("ab") if rank() == 0 else None
        if self._file is not None and keep_bytes is not None:
            self._file.truncate(min(keep_bytes, path.stat().st_size))
        self._monitor = monitor
        self._trackers = trackers

    def synced_bytes(self) -> int:
        """Bytes of the file, all of them on the disk; 0 where there is none."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def write(
        self, step: int, split: str, metrics: Mapping[str, float], histograms: Mapping[str, Sequence[int]]
    ) -> None:
        """One line, and one event per metric, after `step` optimizer steps; numbers that are none become null."""
        if self._file is None:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write((json.dumps({"step": step, "split": split, **finite, **histograms}) + "\n").encode())
        self._file.flush()
        if self._monitor is not None and self._monitor.enabled:
            self._monitor.write_events([(f"{split}/{name}", value, step) for name, value in metrics.items()])
        self._trackers.write(step, split, metrics)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        self._trackers.close(failed=error is not None)

"""Mask histograms over the steps, in bounded memory: of a long run neighbouring steps are added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a second, which pages that hold no figure do not want to wait
    from matplotlib.axes import Axes

MOST_COLUMNS = 400
"""Even. A figure is some 500 dots wide."""
_OCTAVES = range(-10, 7)
LABELS = ("negative", "0", f"< 2^{_OCTAVES[0]}", *(f"2^{power}" for power in _OCTAVES))
"""Of the bins, as training counts them (`training/mask_weights.py`): each named by where it begins."""


class Columns:
    """Counts by bin and step, in the order of the file; each column is the sum over equally many lines."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        """The first step of each column."""
        self.counts: list[np.ndarray] = []
        """[bins] each."""
        self._width, self._lines = 1, 0

    def add(self, step: int, counts: Sequence[int]) -> None:
        """The next line. Raises ValueError where it has not a count for each bin."""
        if len(counts) != len(LABELS) or not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"a histogram has {len(LABELS)} counts of tokens")
        values = np.array(counts, dtype=np.float64)
        if self._lines % self._width:
            self.counts[-1] += values
        else:
            if len(self.counts) == MOST_COLUMNS:
                self._width *= 2
                self.steps = self.steps[::2]
                self.counts = [one + other for one, other in zip(self.counts[::2], self.counts[1::2], strict=True)]
            self.steps.append(step)
            self.counts.append(values)
        self._lines += 1


def draw_histograms(columns: Columns, axes: Axes) -> None:
    """The share of tokens in each bin, over the steps; bins that no step fills at either end are left out."""
    counts = np.stack(columns.counts, 1)
    filled = np.flatnonzero(counts.sum(1))
    low, high = (filled[0], filled[-1] + 1) if len(filled) else (1, 2)
    shares = counts[low:high] / np.maximum(counts.sum(0), 1)
    last = columns.steps[-1] + max(1, columns.steps[-1] - columns.steps[-2] if len(columns.steps) > 1 else 1)
    rows = np.arange(high - low + 1) - 0.5
    mesh = axes.pcolormesh([*columns.steps, last], rows, shares, cmap="Greens", vmin=0, shading="flat")
    axes.set_yticks(range(high - low), LABELS[low:high], fontsize=7)
    axes.figure.colorbar(mesh, ax=axes, format="{x:.0%}", label="share of tokens")

"""What token masks weigh over a whole global batch: mean and median of the tokens they let through, and a histogram."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch, TokenMasks
from sparsepo_dist.engines.deepspeed.distributed import of_all_ranks

LOWEST, HIGHEST = -10, 6
"""Powers of 2 that the histogram's bins lie between, one an octave."""
_EDGES = torch.tensor([2.0**power for power in range(LOWEST, HIGHEST + 1)], dtype=torch.float64)


class MaskReport(NamedTuple):
    """Of one global batch or evaluation, the same on every rank."""

    metrics: dict[str, float]
    """weight/NAME/mean and weight/NAME/median, over the tokens that are not ruled out, where there are any."""
    histograms: dict[str, list[int]]
    """histogram/NAME: how many tokens are negative, ruled out (0, or at the floor), below 2**LOWEST, in each octave
    from there, and at 2**HIGHEST or above."""

    @property
    def dead(self) -> list[str]:
        """Names of the masks that rule out every token."""
        return [name.partition("/")[2] for name, counts in self.histograms.items() if sum(counts) == counts[1] > 0]


class MaskWeights:
    """Collects the weights of micro-batches."""

    def __init__(self) -> None:
        self._floor = 0.0
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, masks: TokenMasks, batch: PackedBatch) -> None:
        """The masks of a micro-batch, but for pairs that only fill a rank's round, or that another rank counts."""
        counted = (batch.counted_weight > 0)[batch.sequence_id // 2]
        self._floor = masks.floor
        for name, mask in (("reward_mask", masks.reward), ("divergence_mask", masks.divergence)):
            self._parts.setdefault(name, []).append(mask.detach()[counted].float().cpu())

    def reduce(self) -> MaskReport:
        """Over all micro-batches and ranks. Every rank must call this, and have added of the same masks.

        The median is that of all numbers, not of medians: for an even number of tokens the mean of the two in the
        middle.
        """
        report = MaskReport({}, {})
        own = {name: torch.cat(parts) for name, parts in self._parts.items()}
        ranks = of_all_ranks(own) if own else []
        for name in own:
            self._describe(name, torch.cat([part[name] for part in ranks]), report)
        self._parts.clear()
        return report

    def _describe(self, name: str, weights: Tensor, report: MaskReport) -> None:
        off = weights == self._floor
        kept = weights[~off].double()
        positive = kept[kept > 0]
        bins = torch.bincount(torch.bucketize(positive, _EDGES, right=True), minlength=len(_EDGES) + 1)
        report.histograms[f"histogram/{name}"] = [len(kept) - len(positive), int(off.sum()), *bins.tolist()]
        if len(kept):
            report.metrics[f"weight/{name}/mean"] = float(kept.mean())
            ordered = kept.sort().values
            middle = ordered[(len(kept) - 1) // 2 : len(kept) // 2 + 1]
            report.metrics[f"weight/{name}/median"] = float(middle.mean())

"""Both masks of a micro-batch, whatever they are made from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs
from sparsepo_dist.masks.activation import activation_masks
from sparsepo_dist.masks.config import MaskConfig, MaskKind
from sparsepo_dist.masks.learned import MaskHeads
from sparsepo_dist.masks.oracle import oracle_mask
from sparsepo_dist.masks.readings import Readings
from sparsepo_dist.masks.uniform import random_mask


class MaskPair(NamedTuple):
    """m_u and m_d, [N] float32 each. A plain tuple: ZeRO-3's hooks on modules do not look inside dataclasses."""

    reward: Tensor
    divergence: Tensor


class TokenMasker(nn.Module):
    """Turns what was read off the reference into masks; owns the learned masks' parameters, if any.

    Args:
        kind: what masks are made from.
        readings: of the reference that will be masked by.
        seed: of random masks.
    """

    def __init__(self, kind: MaskKind, config: MaskConfig, readings: Readings, seed: int) -> None:
        super().__init__()
        self.kind, self.config, self.seed = kind, config, seed
        self.site_types = readings.site_types
        self.heads = MaskHeads(readings.layers, readings.width, config) if kind == "learned" else None

    @property
    def common(self) -> bool:
        """Whether both masks are one and the same."""
        return self.kind not in ("learned", "random") or self.config.sharing == "common"

    @property
    def floor(self) -> float:
        """The weight of a token that a mask rules out."""
        return self.config.floor if self.kind == "learned" else 0.0

    def forward(self, reference: ReferenceOutputs, batch: PackedBatch, step: int) -> MaskPair:
        """Masks of the batch's response tokens; `step`, the optimizer steps done, is for fresh random masks."""
        if self.heads is not None:
            return MaskPair(*self.heads(reference.layer_hidden))
        if self.kind == "random":
            return self._random(batch, step)
        mask = self._shared(reference, batch)
        return MaskPair(mask, mask)

    def _shared(self, reference: ReferenceOutputs, batch: PackedBatch) -> Tensor:
        if reference.mask is not None:
            return reference.mask
        if self.kind == "activation":
            assert reference.site_means is not None
            return activation_masks(reference.site_means, self.site_types, batch.sequence_id, batch.pairs, self.config)
        if self.kind == "oracle":
            assert reference.oracle_logps is not None and reference.logps is not None
            return oracle_mask(
                reference.oracle_logps, reference.logps, batch.sequence_id, batch.pairs, self.config.selected_share
            )
        return _ones(batch)

    def _random(self, batch: PackedBatch, step: int) -> MaskPair:
        fresh = step if self.config.random == "fresh" else None
        reward = _ones(batch) if self.config.on == "divergence" else random_mask(batch, self.seed, 0, fresh)
        if self.common:
            return MaskPair(reward, reward)
        return MaskPair(reward, _ones(batch) if self.config.on == "reward" else random_mask(batch, self.seed, 1, fresh))


def _ones(batch: PackedBatch) -> Tensor:
    return torch.ones(len(batch.labels), device=batch.labels.device)

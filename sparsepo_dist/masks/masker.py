"""Both masks of a micro-batch, whatever they are made from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs, Responses
from sparsepo_dist.masks.activation import activation_masks
from sparsepo_dist.masks.config import MaskConfig, MaskKind
from sparsepo_dist.masks.learned import MaskHeads
from sparsepo_dist.masks.oracle import contrast_weights, guided_weights, oracle_mask
from sparsepo_dist.masks.positions import decay, random_mask, sampled, tail
from sparsepo_dist.masks.readings import Readings
from sparsepo_dist.masks.sources import OF_ORACLE, OF_REFERENCE, MaskSources


class MaskPair(NamedTuple):
    """m_u and m_d, [N] float32 each. A plain tuple: ZeRO-3's hooks on modules do not look inside dataclasses."""

    reward: Tensor
    divergence: Tensor


Whole = Callable[[Tensor], Tensor]
"""Makes [..., N] of all response tokens of what there is on this rank of the reference's, [..., R]."""


def _all_here(values: Tensor) -> Tensor:
    return values


class TokenMasker(nn.Module):
    """Turns what was read off the reference into masks; owns the learned masks' parameters, if any.

    Args:
        sources: what masks are the product of, one at least.
        config: their options.
        readings: of the reference that will be masked by; None where no source asks one.
        seed: of random masks, and of sampled tokens.
    """

    def __init__(self, sources: MaskSources, config: MaskConfig, readings: Readings | None, seed: int) -> None:
        super().__init__()
        self.sources, self.config, self.seed = sources, config, seed
        self.site_types = [] if readings is None else readings.site_types
        self.heads = None
        if "learned" in sources:
            assert readings is not None
            self.heads = MaskHeads(readings.layers, readings.width, config)

    @property
    def common(self) -> bool:
        """Whether both masks are one and the same."""
        return not {"learned", "random"} & set(self.sources) or self.config.sharing == "common"

    @property
    def floor(self) -> float:
        """The weight of a token that a mask rules out."""
        return self.config.floor if "learned" in self.sources else 0.0

    def forward(
        self, reference: ReferenceOutputs | None, batch: PackedBatch, step: int, whole: Whole = _all_here
    ) -> MaskPair:
        """Masks of all of the batch's response tokens; `step`, the optimizer steps done, is for fresh random masks."""
        pairs = [self._of_source(source, reference, batch, step, whole) for source in self.sources]
        reward = math.prod([pair.reward for pair in pairs[1:]], start=pairs[0].reward)
        if self.common:
            return MaskPair(reward, reward)
        return MaskPair(reward, math.prod([pair.divergence for pair in pairs[1:]], start=pairs[0].divergence))

    def _of_source(
        self, source: MaskKind, reference: ReferenceOutputs | None, batch: PackedBatch, step: int, whole: Whole
    ) -> MaskPair:
        if source == "random":
            return self._random(batch, step)
        if source == "learned":
            assert reference is not None and self.heads is not None
            return MaskPair(*map(whole, self.heads(reference.layer_hidden)))
        if source in (*OF_REFERENCE, *OF_ORACLE):
            assert reference is not None
            mask = self._read(source, reference, batch, whole)
        else:
            mask = self._by_place(source, batch.responses)
        return MaskPair(mask, mask)

    def _read(self, source: MaskKind, reference: ReferenceOutputs, batch: PackedBatch, whole: Whole) -> Tensor:
        if source in OF_ORACLE:
            return self._by_oracle(source, reference, batch, whole)
        if reference.mask is not None:
            return whole(reference.mask)
        assert reference.site_means is not None
        means = whole(reference.site_means)
        return activation_masks(means, self.site_types, batch.sequence_id, batch.pairs, self.config)

    def _by_oracle(self, source: MaskKind, reference: ReferenceOutputs, batch: PackedBatch, whole: Whole) -> Tensor:
        config, ids = self.config, batch.sequence_id
        assert reference.oracle_logps is not None
        if source == "contrast":
            assert reference.against_logps is not None
            difference = whole(reference.oracle_logps - reference.against_logps)
            return contrast_weights(difference, batch.responses, config)
        assert reference.logps is not None
        reward = whole(reference.oracle_logps - reference.logps)
        if source == "guided":
            return guided_weights(reward, ids, config.guidance)
        return oracle_mask(reward, ids, batch.pairs, config.selected_share)

    def _by_place(self, source: MaskKind, responses: Responses) -> Tensor:
        if source == "decay":
            return decay(responses, self.config.decay_factor, torch.float32)
        if source == "tail":
            return tail(responses, self.config.tail_weight, torch.float32)
        if source == "sampled":
            return sampled(responses, self.seed, torch.float32)
        return _ones(responses)

    def _random(self, batch: PackedBatch, step: int) -> MaskPair:
        fresh = step if self.config.random == "fresh" else None
        ones, on = _ones(batch.responses), self.config.on
        reward = ones if on == "divergence" else random_mask(batch, self.seed, 0, fresh)
        if self.common:
            return MaskPair(reward, reward)
        return MaskPair(reward, ones if on == "reward" else random_mask(batch, self.seed, 1, fresh))


def _ones(responses: Responses) -> Tensor:
    return torch.ones(len(responses.sequence_id), device=responses.sequence_id.device)

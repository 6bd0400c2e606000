"""Masks by what oracles say of tokens: SePO's choice, TGDPO's and TIS-DPO's weights. N response tokens, P pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses
from sparsepo_dist.masks.config import MaskConfig
from sparsepo_dist.masks.positions import places

LEAST_WEIGHT, MOST_WEIGHT = 0.7, 1.3
"""Of contrast by ranks: the authors' example."""


def oracle_mask(reward: Tensor, sequence_id: Tensor, pairs: int, share: float) -> Tensor:
    """[N] float32: 1 for the selected tokens, else 0 (SePO, arXiv 2408.13518).

    A token's reward [N] is its log-probability under the oracle less that under the reference. Of each response the
    given share of tokens is selected, rounded, at least one: the highest rewards of a chosen response, the lowest of a
    rejected one; of equal rewards the earlier token's.
    """
    lengths = sequence_id.new_zeros(2 * pairs).index_add(0, sequence_id, torch.ones_like(sequence_id))
    quota = (share * lengths.double()).round().clamp(min=1)
    place = places(Responses(sequence_id, pairs), -_for_its_branch(reward, sequence_id))
    return (place < quota[sequence_id]).float()


def guided_weights(reward: Tensor, sequence_id: Tensor, strength: float) -> Tensor:
    """[N] float32: 1 + strength r for a chosen response's token of reward r, 1 - strength r for a rejected one's.

    TGDPO (arXiv 2506.14574), whose alpha beta is `strength`. Nothing keeps weights from being negative, as in the
    authors' code.
    """
    return 1 + strength * _for_its_branch(reward.float(), sequence_id)


def contrast_weights(ratio: Tensor, responses: Responses, config: MaskConfig) -> Tensor:
    """[N] float32: TIS-DPO's importance weights (arXiv 2410.04350), from the oracles' log-ratio [N] in nats.

    A chosen response's tokens weigh the more, the likelier the oracle that is for the preference makes them beside the
    one that is against it; a rejected response's the less.
    """
    ids = responses.sequence_id
    if config.contrast == "ranks":
        lengths = torch.bincount(ids, minlength=2 * responses.pairs)[ids]
        rank = places(responses, _for_its_branch(ratio, ids)).float() / (lengths - 1).clamp(min=1)
        return torch.where(lengths > 1, LEAST_WEIGHT + (MOST_WEIGHT - LEAST_WEIGHT) * rank, 1.0)
    low, high = config.contrast_bounds
    return (config.contrast_strength * _for_its_branch(ratio.float().clamp(low, high), ids)).exp()


def _for_its_branch(values: Tensor, sequence_id: Tensor) -> Tensor:
    """[N]: values of chosen responses, those of rejected ones with the sign turned."""
    return torch.where(sequence_id % 2 == 0, values, -values)

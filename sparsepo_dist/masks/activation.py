"""Activation masks (MaPO, arXiv 2410.05102): no parameters, no gradient; numbers read off the frozen reference.

Shapes: S sites (hooked activations), N response tokens, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsepo_dist.masks.config import MaskConfig

_EPS = 1e-5  # torch's LayerNorm


def activation_masks(
    site_means: Tensor, site_types: Sequence[str], sequence_id: Tensor, pairs: int, config: MaskConfig
) -> Tensor:
    """[N] float32: the mask that serves as m_u and as m_d, of `site_means` [S, N].

    Each site's means are standardised over the tokens of their response (mean 0, population standard
    deviation 1; all 0 where the response is constant or one token long). Paper: the mean over all sites, negative or
    not unless clipped. Released ("zn_rescale"): each site is then rescaled to [0, 1] by its minimum and maximum over
    the response (all 0 where they are equal), averaged within each site type, then over the types. So are the means of
    the features' sigmoids, of which `site_means` is made for normalisation `sigmoid`, and with `layernorm` the means
    standardised with the variance plus 1e-5.
    """
    # In float64 the mean of equal float32 numbers is exactly that number, so that a constant response is seen as one.
    values = site_means.double()
    if config.normalisation != "sigmoid":
        values = _standardise(values, sequence_id, 2 * pairs, _EPS if config.normalisation == "layernorm" else 0.0)
    if config.normalisation == "rescale":
        values = _rescale(values, sequence_id, 2 * pairs)
    if config.normalisation == "standardise":
        mask = values.mean(0).float()
    else:
        kinds = sorted(set(site_types))
        members = [[i for i, kind in enumerate(site_types) if kind == wanted] for wanted in kinds]
        mask = torch.stack([values[rows].mean(0) for rows in members]).mean(0).float()
    return mask.clamp(min=0) if config.clip else mask


def _standardise(values: Tensor, sequence_id: Tensor, sequences: int, eps: float) -> Tensor:
    count = values.new_zeros(sequences).index_add(0, sequence_id, values.new_ones(len(sequence_id))).clamp(min=1)
    empty = values.new_zeros(len(values), sequences)
    mean = empty.index_add(1, sequence_id, values) / count
    centred = values - mean[:, sequence_id]
    deviation = (empty.index_add(1, sequence_id, centred.square()) / count + eps).sqrt()[:, sequence_id]
    return torch.where(deviation > 0, centred / deviation, 0.0)


def _rescale(values: Tensor, sequence_id: Tensor, sequences: int) -> Tensor:
    index = sequence_id.expand_as(values)
    empty = values.new_zeros(len(values), sequences)
    low, high = (
        empty.scatter_reduce(1, index, values, reduce, include_self=False)[:, sequence_id]
        for reduce in ("amin", "amax")
    )
    return torch.where(high > low, (values - low) / (high - low), 0.0)

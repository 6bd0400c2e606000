"""Released definitions, on the released code's padded [responses, T] tensors, against ours on packed tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.masks import MaskConfig, activation_masks
from sparsepo_dist.objectives.base import Sums
from sparsepo_dist.objectives.metrics import preference_metrics
from tests.masks.reading import PAIRS

BATCH = pack(PAIRS, [1.0] * 3, "padded")
TYPES = ["mlp", "mlp", "attention", "residual", "residual", "logits"]


def loss_mask() -> Tensor:
    """[responses, T - 1] bool: where the next token is one of the response's."""
    mask = torch.zeros(BATCH.rows, len(BATCH.input_ids) // BATCH.rows + 1, dtype=torch.bool)
    rows = [(pair.prompt_ids, ids) for pair in PAIRS for ids in (pair.chosen_ids, pair.rejected_ids)]
    for row, (prompt, ids) in enumerate(rows):
        mask[row, len(prompt) : len(prompt) + len(ids)] = True
    return mask[:, 1:]


def released_zn_rescale(activation: Tensor, mask: Tensor) -> Tensor:
    """[responses, T - 1] of [responses, T, features]: last position dropped, sample deviation, then [0, 1]."""
    values = activation.mean(-1)[:, :-1]
    scores = torch.zeros_like(values)
    for row in range(len(values)):
        response = values[row, mask[row]]
        if len(response) == 1:
            continue  # not defined there; ours is 0
        standardised = (response - response.mean()) / (response.std() + 1e-12)
        low, high = standardised.min(), standardised.max()
        scores[row, mask[row]] = (standardised - low) / (high - low)
    return scores


def test_activation_masks_with_the_shift_by_one() -> None:
    mask = loss_mask()
    width = mask.shape[1] + 1
    assert torch.equal(mask.sum(1), BATCH.sequence_id.bincount())
    activations = torch.randn(len(TYPES), BATCH.rows, width, 4, generator=torch.Generator().manual_seed(0))
    scores = torch.stack([released_zn_rescale(activation, mask) for activation in activations])
    by_type = [scores[[i for i, kind in enumerate(TYPES) if kind == name]].mean(0) for name in dict.fromkeys(TYPES)]
    want = torch.stack(by_type).mean(0)[mask]
    # Our rows do not have the response's last token, which predicts nothing.
    site_means = activations.mean(-1)[:, :, :-1].flatten(1)[:, BATCH.predict_index]
    got = activation_masks(site_means, TYPES, BATCH.sequence_id, 3, MaskConfig(normalisation="rescale"))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_sparsity_is_a_share_per_response_averaged_over_responses() -> None:
    count = len(BATCH.labels)
    mask = torch.randn(count, generator=torch.Generator().manual_seed(1)).relu()
    stats = TokenStats(*torch.randn(3, count))
    sums = Sums(Responses(BATCH.sequence_id, 3))
    metrics = preference_metrics(stats, TokenMasks(mask, torch.ones(count)), sums, beta=1.0)
    for branch, name in enumerate(("chosen", "rejected")):
        shares = []
        for pair in range(3):
            values = mask[BATCH.sequence_id == 2 * pair + branch]
            shares.append((len(values) - len(values.nonzero())) / len(values))
        assert 0 < sum(shares) < 3
        torch.testing.assert_close(metrics[f"sparsity/reward_mask/{name}"].mean(), torch.tensor(sum(shares) / 3))

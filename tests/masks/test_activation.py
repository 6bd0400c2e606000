"""Activation masks from site means, against FACTS.md's definition in plain loops."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_dist.masks import MaskConfig, activation_masks

SEQUENCES = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 3])
TYPES = ["mlp", "mlp", "attention", "residual"]


def site_means() -> Tensor:
    means = torch.randn(4, 10, generator=torch.Generator().manual_seed(0)) * 5 + 3
    means[2, :3] = 0.1  # constant over a response
    return means


def by_definition(means: Tensor, normalisation: str) -> list[float]:
    mask = []
    for sequence in range(4):
        responses = means[:, sequence == SEQUENCES].double().tolist()
        scores = [standardised(values) for values in responses]
        if normalisation == "rescale":
            scores = [rescaled(values) for values in scores]
        weights = [1 / len(TYPES)] * len(TYPES)
        if normalisation == "rescale":
            weights = [1 / (len(set(TYPES)) * TYPES.count(kind)) for kind in TYPES]
        mask += [sum(w * s[t] for w, s in zip(weights, scores, strict=True)) for t in range(len(scores[0]))]
    return mask


def standardised(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return [(value - mean) / deviation if deviation else 0.0 for value in values]


def rescaled(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def test_paper_standardises_each_site_within_each_response() -> None:
    mask = activation_masks(site_means(), TYPES, SEQUENCES, 2, MaskConfig())
    torch.testing.assert_close(mask, torch.tensor(by_definition(site_means(), "standardise")))
    assert mask[3] == 0  # a response of one token
    assert (mask < 0).any()


def test_clip_makes_negative_weights_0_and_leaves_the_others() -> None:
    plain, clipped = (
        activation_masks(site_means(), TYPES, SEQUENCES, 2, MaskConfig(clip=clip)) for clip in (False, True)
    )
    assert torch.equal(clipped, torch.where(plain > 0, plain, 0.0))


def test_released_rescales_and_averages_types_not_sites() -> None:
    mask = activation_masks(site_means(), TYPES, SEQUENCES, 2, MaskConfig(normalisation="rescale"))
    torch.testing.assert_close(mask, torch.tensor(by_definition(site_means(), "rescale")))
    assert ((mask >= 0) & (mask <= 1)).all()


def test_a_response_does_not_feel_its_neighbours() -> None:
    means = site_means()
    alone = means[:, SEQUENCES == 2]
    for config in (MaskConfig(), MaskConfig(normalisation="rescale")):
        mask = activation_masks(alone, TYPES, torch.zeros(4, dtype=torch.int64), 1, config)
        torch.testing.assert_close(mask, activation_masks(means, TYPES, SEQUENCES, 2, config)[SEQUENCES == 2])


def test_layernorm_standardises_over_the_response_and_averages_types() -> None:
    mask = activation_masks(site_means(), TYPES, SEQUENCES, 2, MaskConfig(normalisation="layernorm"))
    for sequence in range(4):
        rows = site_means()[:, sequence == SEQUENCES].double()
        normed = torch.nn.functional.layer_norm(rows, rows.shape[-1:])
        want = (normed[:2].mean(0) + normed[2] + normed[3]) / 3
        torch.testing.assert_close(mask[sequence == SEQUENCES].double(), want, rtol=1e-5, atol=1e-6)


def test_sigmoid_averages_what_was_read_within_and_over_types() -> None:
    read = site_means().sigmoid()  # of features, by the hooks: test_hooks.py
    mask = activation_masks(read, TYPES, SEQUENCES, 2, MaskConfig(normalisation="sigmoid"))
    want = ((read[0] + read[1]) / 2 + read[2] + read[3]) / 3
    torch.testing.assert_close(mask, want)

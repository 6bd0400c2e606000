"""Random and uniform masks: a token's number is its own, whatever it is packed with, and all of them are uniform."""

from __future__ import annotations

import pytest
import torch

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.masks import MaskConfig, TokenMasker
from sparsepo_dist.masks.config import MaskKind
from sparsepo_dist.masks.positions import random_mask

PAIRS = [
    TokenizedPair((1, 2, 3), (4, 5, 6), (7, 8)),
    TokenizedPair((1,), (2,), (3, 4, 5, 6)),
    TokenizedPair((9, 9), (4, 5), (4, 6)),
]
Token = tuple[int, int, int]


class NoReadings:
    """A reference of which nothing is read."""

    site_types: tuple[str, ...] = ()
    layers, width = 0, 0


def masks(batch: PackedBatch, step: int = 0, kind: MaskKind = "random", seed: int = 5, **options: str) -> list:
    masker = TokenMasker((kind,), MaskConfig(**options), NoReadings(), seed)
    assert not list(masker.parameters())
    pair = masker(ReferenceOutputs(), batch, step)
    assert all(mask.dtype == torch.float32 and mask.shape == batch.labels.shape for mask in pair)
    return [mask.tolist() for mask in pair]


def tokens(batch: PackedBatch) -> list[Token]:
    """Each token's pair in the data set, branch, and place in its response."""
    seen: dict[tuple[int, int], int] = {}
    found = []
    for sequence in batch.sequence_id.tolist():
        key = (int(batch.pair_index[sequence // 2]), sequence % 2)
        found.append((*key, seen.get(key, 0)))
        seen[key] = seen.get(key, 0) + 1
    return found


def by_token(order: list[int], layout: str) -> dict[Token, tuple[float, ...]]:
    """The masks of pairs packed together in an order."""
    batch = pack([PAIRS[i] for i in order], [1.0] * len(order), layout, indices=order)
    return dict(zip(tokens(batch), zip(*masks(batch), strict=True), strict=True))


def test_numbers_depend_on_neither_layout_nor_order_nor_micro_batch() -> None:
    want = by_token([0, 1, 2], "packed")
    assert len(want) == 14
    assert len({value for pair in want.values() for value in pair}) == 28
    for layout in ("prefix_shared", "packed", "padded"):
        assert by_token([2, 0, 1], layout) == want
        assert {**by_token([1], layout), **by_token([2, 0], layout)} == want


BATCH = pack(PAIRS, [1.0] * 3, "packed", indices=[10, 11, 12])


def test_fixed_masks_stay_and_fresh_ones_change_with_the_step() -> None:
    assert masks(BATCH, 0) == masks(BATCH, 7)
    fresh = [masks(BATCH, step, random="fresh") for step in (0, 1, 0)]
    assert fresh[0] == fresh[2] != fresh[1]
    assert not set(fresh[0][0]) & set(fresh[1][0])


def test_the_seed_matters() -> None:
    assert not set(masks(BATCH, seed=1)[0]) & set(masks(BATCH, seed=2)[0])


def test_common_and_single_masks() -> None:
    reward, divergence = masks(BATCH)
    assert masks(BATCH, sharing="common") == [reward, reward]
    assert masks(BATCH, on="reward") == [reward, [1.0] * 14]
    assert masks(BATCH, on="divergence") == [[1.0] * 14, divergence]


def test_ones_are_ones() -> None:
    assert masks(BATCH, kind="ones") == [[1.0] * 14] * 2


@pytest.mark.parametrize("mask", [0, 1])
def test_numbers_are_uniform_and_unrelated(mask: int) -> None:
    responses = torch.randint(9, (400, 2, 50)).tolist()
    batch = pack([TokenizedPair((1,), tuple(a), tuple(b)) for a, b in responses], [1.0] * 400, "packed")
    values = random_mask(batch, seed=0, mask=mask)
    count = len(values)
    assert values.min() >= 0 and values.max() < 1
    shares = torch.histc(values, 20, 0, 1) / count
    torch.testing.assert_close(shares, torch.full((20,), 0.05), rtol=0, atol=5 * (0.05 * 0.95 / count) ** 0.5)
    others = [
        values.roll(1),
        random_mask(batch, 0, 1 - mask),
        random_mask(batch, 1, mask),
        random_mask(batch, 0, mask, 0),
    ]
    for other in others:
        assert torch.corrcoef(torch.stack([values, other]))[0, 1].abs() < 5 / count**0.5

"""What oracles make of tokens, against its definition: SePO's choice, TGDPO's and TIS-DPO's weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsepo_dist.contracts import ReferenceOutputs, Responses, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.masks import MaskConfig, MaskKind, TokenMasker, oracles_of
from sparsepo_dist.masks.oracle import contrast_weights, guided_weights, oracle_mask


def by_definition(reward: list[float], sequences: list[int], share: float) -> list[float]:
    mask = [0.0] * len(reward)
    for sequence in set(sequences):
        places = [i for i, s in enumerate(sequences) if s == sequence]
        sign = -1 if sequence % 2 == 0 else 1
        best = sorted(places, key=lambda i: (sign * reward[i], i))
        for i in best[: max(1, round(share * len(places)))]:
            mask[i] = 1.0
    return mask


def reversed_responses(count: int) -> Tensor:
    """Sequence ids of uneven responses, some of them empty, the last first: no order is relied on."""
    lengths = torch.randint(0, 12, (count,), generator=torch.Generator().manual_seed(count))
    return torch.repeat_interleave(torch.arange(count), lengths).flip(0)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 1.0])
def test_selection_is_its_definition(share: float) -> None:
    sequences = reversed_responses(40)
    oracle, reference = torch.randn(2, len(sequences), generator=torch.Generator().manual_seed(1))
    mask = oracle_mask(oracle - reference, sequences, 20, share)
    assert mask.tolist() == by_definition((oracle - reference).tolist(), sequences.tolist(), share)


def test_of_equal_rewards_the_earlier_token_is_selected() -> None:
    reward = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 3.0])
    mask = oracle_mask(reward, torch.tensor([0] * 4 + [1] * 4), 1, 0.5)
    assert mask.tolist() == [0, 1, 1, 0, 1, 1, 0, 0]


def test_a_pair_without_rejected_response_and_an_empty_batch() -> None:
    assert oracle_mask(torch.tensor([2.0, 1.0]), torch.tensor([0, 0]), 1, 0.3).tolist() == [1, 0]
    none, nobody = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert oracle_mask(none, nobody, 1, 0.3).tolist() == guided_weights(none, nobody, 1.0).tolist() == []
    for form in ("exponential", "ranks"):
        assert contrast_weights(none, Responses(nobody, 1), MaskConfig(contrast=form)).tolist() == []


def test_masker_gives_one_mask_for_reward_and_divergence() -> None:
    class NoReadings:
        site_types: tuple[str, ...] = ()

    batch = pack([TokenizedPair((1,), (2, 3, 4), (5, 6, 7))], [1.0], "packed")
    logps = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])
    oracle = torch.tensor([-1.5, -1.0, -4.0, -4.5, -4.0, -7.0])
    masker = TokenMasker(("oracle",), MaskConfig(selected_share=0.34), NoReadings(), seed=0)
    reward, divergence = masker(ReferenceOutputs(logps=logps, oracle_logps=oracle), batch, step=0)
    assert reward is divergence and reward.tolist() == [0, 1, 0, 0, 0, 1]
    assert masker.common and not list(masker.parameters())


def test_guided_weights_are_their_definition() -> None:
    """1 + alpha beta r of chosen tokens, 1 - alpha beta r of rejected ones, not kept from being negative."""
    rewards = torch.tensor([0.5, -30.0, 2.0, 25.0])
    weights = guided_weights(rewards, torch.tensor([0, 0, 1, 3]), 0.05)
    assert weights.tolist() == pytest.approx([1.025, -0.5, 0.9, -0.25])
    assert weights.dtype == torch.float32


def test_exponential_contrast_is_its_definition() -> None:
    """e^(mu clamp(log pi+ / pi-)) of chosen tokens, e^(-mu clamp(...)) of rejected ones."""
    sequences = reversed_responses(40)
    ratio = 2 * torch.randn(len(sequences), generator=torch.Generator().manual_seed(2))
    config = MaskConfig(contrast="exponential", contrast_strength=0.7, contrast_bounds=(-0.6, 1.1))
    want = [
        math.exp((-0.7 if s % 2 else 0.7) * min(max(x, -0.6), 1.1))
        for x, s in zip(ratio.tolist(), sequences.tolist(), strict=True)
    ]
    assert contrast_weights(ratio, Responses(sequences, 20), config).tolist() == pytest.approx(want)


def test_contrast_by_ranks_is_its_definition() -> None:
    """From 0.7 for the least to 1.3 for the most of a chosen response, the other way round in a rejected one; 1 for a
    token that is alone."""
    ratio, sequences = torch.tensor([3.0, -1.0, 0.0, 9.0, 2.0, 5.0]), torch.tensor([0, 0, 0, 1, 1, 2])
    config = MaskConfig()
    weights = contrast_weights(ratio, Responses(sequences, 2), config)
    assert weights.tolist() == pytest.approx([1.3, 0.7, 1.0, 0.7, 1.3, 1.0])


def test_swapping_responses_and_oracles_gives_the_same_weights() -> None:
    sequences = reversed_responses(40)
    ratio = torch.randn(len(sequences), generator=torch.Generator().manual_seed(3))
    for config in (MaskConfig(), MaskConfig(contrast="exponential", contrast_bounds=(-1.0, 1.0))):
        ours, theirs = (
            contrast_weights(one, Responses(ids, 20), config)
            for one, ids in ((ratio, sequences), (-ratio, sequences ^ 1))
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["guided", "contrast"])
def test_masker_reads_what_a_kind_asks_for(kind: MaskKind) -> None:
    """Contrast needs no reference."""
    batch = pack([TokenizedPair((1,), (2, 3), (5,))], [1.0], "packed")
    oracle, other = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -1.75, -4.0])
    outputs = {
        "guided": ReferenceOutputs(logps=other, oracle_logps=oracle),
        "contrast": ReferenceOutputs(oracle_logps=oracle, against_logps=other),
    }[kind]
    reward, divergence = TokenMasker((kind,), MaskConfig(guidance=0.5, contrast="exponential"), None, seed=0)(
        outputs, batch, step=0
    )
    want = {"guided": [1.25, 0.875, 0.5], "contrast": [math.exp(x) for x in (0.5, -0.25, -1.0)]}[kind]
    assert reward is divergence and reward.tolist() == pytest.approx(want)


def test_oracles_that_sources_ask() -> None:
    assert oracles_of(("learned", "decay")) == () and oracles_of(("oracle", "ones")) == ("oracle",)
    assert oracles_of(("guided",)) == ("oracle",) and oracles_of(("contrast",)) == ("oracle", "oracle_against")

"""SePO's choice of tokens against its definition: best of the chosen response, worst of the rejected one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsepo_dist.contracts import ReferenceOutputs, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.masks import MaskConfig, TokenMasker
from sparsepo_dist.masks.oracle import oracle_mask


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
    mask = oracle_mask(oracle, reference, sequences, 20, share)
    assert mask.tolist() == by_definition((oracle - reference).tolist(), sequences.tolist(), share)


def test_of_equal_rewards_the_earlier_token_is_selected() -> None:
    reward = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 3.0])
    mask = oracle_mask(reward, torch.zeros(8), torch.tensor([0] * 4 + [1] * 4), 1, 0.5)
    assert mask.tolist() == [0, 1, 1, 0, 1, 1, 0, 0]


def test_a_pair_without_rejected_response_and_an_empty_batch() -> None:
    assert oracle_mask(torch.tensor([2.0, 1.0]), torch.zeros(2), torch.tensor([0, 0]), 1, 0.3).tolist() == [1, 0]
    assert oracle_mask(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 1, 0.3).tolist() == []


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

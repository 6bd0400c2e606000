"""Loss and gradient of each objective against FACTS.md's formulas in float64 over full logits."""

from __future__ import annotations

import pytest
import torch

from sparsepo_dist.contracts import TokenMasks
from sparsepo_dist.objectives import ObjectiveConfig, build_objective
from sparsepo_dist.ops import Head, token_stats
from tests.support.brute_force import Response, pair_loss, token_numbers

VOCABULARY, WIDTH = 9, 4
LENGTHS = [(3, 5), (1, 1), (4, 2)]
CONSTANTS = {"beta": 0.7, "alpha": 0.5, "l1_u": 0.03, "l1_d": 0.05}
CASES = {
    "sft": {"name": "sft"},
    "dpo": {"name": "dpo"},
    "tdpo1": {"name": "tdpo1"},
    "tdpo2": {"name": "tdpo2"},
    "sparsepo_paper": {"name": "sparsepo", "divergence": "policy"},
    "sparsepo_released": {"name": "sparsepo", "divergence": "reference"},
}


class Case:
    """Random hidden rows and masks of three pairs of uneven length."""

    def __init__(self, seed: int = 3) -> None:
        g = torch.Generator().manual_seed(seed)
        tokens = sum(map(sum, LENGTHS))
        self.hidden = torch.randn(tokens, WIDTH, generator=g, dtype=torch.float64, requires_grad=True)
        self.weight = torch.randn(VOCABULARY, WIDTH, generator=g, dtype=torch.float64, requires_grad=True)
        self.ref_hidden = torch.randn(tokens, WIDTH, generator=g, dtype=torch.float64)
        self.labels = torch.randint(VOCABULARY, (tokens,), generator=g)
        lengths = [length for pair in LENGTHS for length in pair]
        self.sequence_id = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        masks = torch.randn(2, tokens, generator=g, dtype=torch.float64).relu()
        self.m_u, self.m_d = (m.clone().requires_grad_() for m in masks)

    def ours(self, config: dict, common: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        objective = build_objective(
            ObjectiveConfig(
                beta=CONSTANTS["beta"], alpha=CONSTANTS["alpha"], l1_reward=CONSTANTS["l1_u"],
                l1_divergence=CONSTANTS["l1_d"], **config,
            )
        )  # fmt: skip
        needs = objective.requirements
        reference = (self.ref_hidden, Head(self.weight.detach())) if needs.reference else (None, None)
        stats = token_stats(self.hidden, Head(self.weight), self.labels, *reference, divergence=needs.divergence)
        masks = TokenMasks(self.m_u, self.m_u if common else self.m_d, common) if needs.masks else None
        return objective(stats, masks, self.sequence_id, len(LENGTHS))

    def responses(self, common: bool = False) -> list[tuple[Response, Response]]:
        pairs = []
        for pair in range(len(LENGTHS)):
            sides = []
            for branch in range(2):
                rows = (self.sequence_id == 2 * pair + branch).nonzero().squeeze(-1)
                sides.append(
                    Response(
                        self.hidden[rows] @ self.weight.T, self.ref_hidden[rows] @ self.weight.detach().T,
                        self.labels[rows].tolist(), self.m_u[rows], (self.m_u if common else self.m_d)[rows],
                    )
                )  # fmt: skip
            pairs.append((sides[0], sides[1]))
        return pairs

    def leaves(self) -> list[torch.Tensor]:
        return [self.hidden, self.weight, self.m_u, self.m_d]


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient(name: str) -> None:
    case = Case()
    losses, _ = case.ours(CASES[name])
    want = torch.stack([pair_loss(name, c, r, CONSTANTS) for c, r in case.responses()])
    torch.testing.assert_close(losses, want, rtol=1e-10, atol=1e-12)
    weights = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)
    ours = torch.autograd.grad((losses * weights).sum(), case.leaves(), allow_unused=True)
    theirs = torch.autograd.grad((want * weights).sum(), case.leaves(), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            torch.zeros(1).double() if a is None else a,
            torch.zeros(1).double() if b is None else b,
            rtol=1e-9,
            atol=1e-12,
        )


def test_common_mask_is_charged_once() -> None:
    case = Case()
    losses, _ = case.ours(CASES["sparsepo_paper"], common=True)
    half = {**CONSTANTS, "l1_u": CONSTANTS["l1_u"] / 2, "l1_d": CONSTANTS["l1_d"] / 2}
    want = torch.stack([pair_loss("sparsepo_paper", c, r, half) for c, r in case.responses(common=True)])
    torch.testing.assert_close(losses, want, rtol=1e-10, atol=1e-12)


def test_released_form_with_masks_of_one_is_tdpo1() -> None:
    case = Case()
    with torch.no_grad():
        case.m_u.fill_(1.0)
        case.m_d.fill_(1.0)
    sparse = build_objective(ObjectiveConfig(name="sparsepo", beta=0.3, divergence="reference"))
    tdpo = build_objective(ObjectiveConfig(name="tdpo1", beta=0.3))
    stats = token_stats(
        case.hidden, Head(case.weight), case.labels, case.ref_hidden, Head(case.weight.detach()), divergence="reference"
    )
    masked = sparse(stats, TokenMasks(case.m_u, case.m_d), case.sequence_id, 3).losses
    torch.testing.assert_close(masked, tdpo(stats, None, case.sequence_id, 3).losses, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["sparsepo_paper", "sparsepo_released"])
def test_metrics(name: str) -> None:
    case = Case()
    _, metrics = case.ours(CASES[name])
    beta = CONSTANTS["beta"]
    for pair, sides in enumerate(case.responses()):
        rewards = []
        for side, response in zip(("chosen", "rejected"), sides, strict=True):
            logp, ref, reverse, forward = token_numbers(response)
            kl, v = (reverse, reverse) if name == "sparsepo_paper" else (forward, -forward)
            rewards.append(beta * (response.m_u * (logp - ref) + response.m_d * v).sum())
            wanted = {
                f"rewards/{side}": rewards[-1],
                f"logps/{side}": logp.sum(),
                f"kl/{side}": kl.sum(),
                f"token_kl/{side}": kl.mean(),
                f"masked_kl/{side}": (response.m_d * kl).sum(),
                f"sparsity/reward_mask/{side}": (response.m_u == 0).double().mean(),
                f"sparsity/divergence_mask/{side}": (response.m_d == 0).double().mean(),
            }
            for key, value in wanted.items():
                assert metrics[key][pair].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-9), key
        assert metrics["rewards/margins"][pair].item() == pytest.approx((rewards[0] - rewards[1]).item(), abs=1e-9)
        assert metrics["rewards/accuracies"][pair].item() == float(rewards[0] > rewards[1])
        l1 = sum(response.m_u.sum().item() for response in sides)
        assert metrics["l1/reward_mask"][pair].item() == pytest.approx(l1)


@pytest.mark.parametrize("name", ["dpo", "tdpo1", "tdpo2", "sparsepo_paper", "sparsepo_released"])
def test_policy_equal_to_reference_gives_log_two(name: str) -> None:
    case = Case()
    with torch.no_grad():
        case.ref_hidden.copy_(case.hidden)
        case.m_u.copy_(case.m_u)
    objective = build_objective(ObjectiveConfig(**CASES[name]))
    needs = objective.requirements
    stats = token_stats(
        case.hidden, Head(case.weight), case.labels, case.ref_hidden, Head(case.weight.detach()),
        divergence=needs.divergence,
    )  # fmt: skip
    losses = objective(stats, TokenMasks(case.m_u, case.m_d) if needs.masks else None, case.sequence_id, 3).losses
    assert all(0.69314 < loss < 0.69316 for loss in losses.tolist())


@pytest.mark.parametrize("name", ["dpo", "tdpo1", "sparsepo_paper"])
def test_swapping_the_responses_mirrors_the_logit(name: str) -> None:
    case = Case()
    config = dict(CASES[name])
    objective = build_objective(ObjectiveConfig(beta=0.7, **config))
    needs = objective.requirements
    stats = token_stats(
        case.hidden, Head(case.weight), case.labels, case.ref_hidden, Head(case.weight.detach()),
        divergence=needs.divergence,
    )  # fmt: skip
    masks = TokenMasks(case.m_u, case.m_d) if needs.masks else None
    losses = objective(stats, masks, case.sequence_id, 3).losses
    mirrored = objective(stats, masks, case.sequence_id ^ 1, 3).losses
    # -log s(x) and -log s(-x) satisfy exp(-a) + exp(-b) = 1
    torch.testing.assert_close((-losses).exp() + (-mirrored).exp(), torch.ones(3).double())

"""Heads with every option of their weights, through the objective, in both forms of the divergence, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks
from sparsepo_dist.masks import MaskConfig, MaskHeads
from sparsepo_dist.ops import Head, token_stats
from tests.objectives.cases import CONSTANTS, LENGTHS, ModelBatch, objective_of
from tests.support.brute_force import batch_losses

LAYERS, WIDTH = 3, 4
OPTIONS: dict[str, dict[str, Any]] = {
    "bounded": {"bounded": True},
    "floor": {"floor": 0.05},
    "both": {"bounded": True, "floor": 0.05},
    "released": {"init": "released", "dropout": 0.0},
}
FORMS = ("sparsepo", "sparsepo_released")


class Case:
    """A batch whose masks come from heads."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.batch = ModelBatch()
        torch.manual_seed(5)
        self.config = MaskConfig(**options)
        self.heads = MaskHeads(LAYERS, WIDTH, self.config).double()
        self.hidden = 40 * torch.randn(LAYERS, len(self.batch.labels), WIDTH, dtype=torch.float64)
        self.parameters = dict(self.heads.named_parameters())

    def losses(self, form: str) -> Tensor:
        batch, objective = self.batch, objective_of(form)
        stats = token_stats(
            batch.hidden, Head(batch.weight), batch.labels, batch.ref_hidden, Head(batch.weight.detach()),
            divergence=objective.requirements.divergence,
        )  # fmt: skip
        masks = TokenMasks(*self.heads(self.hidden), floor=self.config.floor)
        return objective(stats, masks, Responses(batch.sequence_id, len(LENGTHS), batch.scores)).losses

    def wanted(self, form: str) -> Tensor:
        """The formulas, of masks by their definition."""
        batch = self.batch
        batch.m_u, batch.m_d = (self._mask(head) for head in (self.heads.reward, self.heads.divergence))
        return batch_losses(form, batch.pairs(), CONSTANTS)

    def _mask(self, head: Any) -> Tensor:
        layers = []
        for layer in range(LAYERS):
            h = self.hidden[layer]
            if self.config.layer_norm:
                h = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
                h = h * head.norm_weight + head.norm_bias
            layers.append(torch.relu(h @ head.weight[layer] + head.bias[layer]))
        weights = torch.relu(head.out @ torch.stack(layers)) + self.config.floor
        return torch.where(weights > 1, 1.0, weights) if self.config.bounded else weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", OPTIONS)
def test_loss_and_gradients(name: str, form: str) -> None:
    case = Case(OPTIONS[name])
    losses, want = case.losses(form), case.wanted(form)
    torch.testing.assert_close(losses, want, rtol=1e-10, atol=1e-12)
    leaves = [case.batch.hidden, *case.parameters.values()]
    got = torch.autograd.grad(losses.sum(), leaves)
    theirs = torch.autograd.grad(want.sum(), leaves)
    assert sum(bool(grad.any()) for grad in got) > 4
    for ours, other in zip(got, theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck_of_bounded_masks_above_a_floor(form: str) -> None:
    case = Case(OPTIONS["both"])
    weights = [head.weight.detach().clone() for head in (case.heads.reward, case.heads.divergence)]

    def loss(*values: Tensor) -> Tensor:
        names = ("reward.weight", "divergence.weight")
        given = dict(case.parameters) | dict(zip(names, values, strict=True))
        heads = case.heads
        case.heads = lambda hidden: torch.func.functional_call(heads, given, (hidden,))
        try:
            return case.losses(form)
        finally:
            case.heads = heads

    assert torch.autograd.gradcheck(loss, tuple(w.requires_grad_() for w in weights), fast_mode=True)


def moved_towards(chosen: float, form: str) -> tuple[float, float]:
    """KL (in the form's own direction) of the chosen response, and the loss, where all of its predictions are moved
    from the reference's by so much, away from its tokens and towards them alike, so that its log-ratio stays 0."""
    batch = ModelBatch()
    objective = objective_of(form, l1_reward=0.0, l1_divergence=0.0)
    first = batch.sequence_id == 0
    logits = (batch.ref_hidden @ batch.weight.detach().T).repeat(1, 1)
    push = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = logits + chosen * torch.where(first[:, None], push, 0.0)
    # The response's own token keeps its probability: the others move against each other only.
    rows = torch.arange(len(moved))
    probabilities = moved.softmax(-1)
    kept = logits.softmax(-1)[rows, batch.labels]
    probabilities = probabilities / (1 - probabilities[rows, batch.labels])[:, None] * (1 - kept)[:, None]
    probabilities[rows, batch.labels] = kept
    eye = torch.eye(logits.shape[1], dtype=torch.float64)
    stats = token_stats(
        probabilities.log(), Head(eye), batch.labels, logits, Head(eye), divergence=objective.requirements.divergence
    )
    assert stats.reference_logp is not None and stats.divergence is not None
    torch.testing.assert_close(stats.policy_logp, stats.reference_logp)
    masks = TokenMasks(torch.ones(len(rows)), torch.ones(len(rows)))
    loss = objective(stats, masks, Responses(batch.sequence_id, len(LENGTHS))).losses[0]
    return stats.divergence[first].abs().sum().item(), loss.item()


@pytest.mark.parametrize(("form", "sign"), [("sparsepo", 1), ("sparsepo_released", -1)])
def test_which_way_the_chosen_responses_kl_pulls(form: str, sign: int) -> None:
    """docs/objectives.md: with `policy` lowering it lowers the loss, with `reference` raising it does."""
    kls, losses = zip(*(moved_towards(size, form) for size in (0.0, 0.5, 1.0, 2.0)), strict=True)
    assert kls[0] == pytest.approx(0, abs=1e-9) and list(kls) == sorted(kls) and kls[-1] > 0.1
    assert list(losses) == sorted(losses, reverse=sign < 0) and abs(losses[-1] - losses[0]) > 0.01

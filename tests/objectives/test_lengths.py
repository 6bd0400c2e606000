"""Responses without a token, with one, and log-probabilities at the ends of what float32 holds: all stays finite."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.cases import CASES, Batch, objective_of

SHAPES = {
    "empty": [(0, 0)],
    "no_chosen": [(0, 3), (2, 2)],
    "no_rejected": [(3, 0), (2, 2)],
    "one_token": [(1, 1)],
    "mixed": [(0, 1), (1, 0), (0, 0), (1, 1), (5, 1)],
}
LOGPS = [0.0, -1e-30, -1e-8, -1.2e-7, -1e-4, -1.0, -80.0, -1e4]


def assert_finite(batch: Batch, name: str) -> None:
    losses, metrics = batch.apply(objective_of(name))
    assert losses.isfinite().all()
    for leaf in torch.autograd.grad(losses.sum(), batch.leaves(), allow_unused=True, materialize_grads=True):
        assert leaf.isfinite().all()
    for metric, values in metrics.items():
        assert values.isfinite().all() and values.shape == losses.shape and not values.requires_grad, metric


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_empty_and_short_responses(name: str, shape: str) -> None:
    assert_finite(Batch(SHAPES[shape], dtype=torch.float32), name)


@pytest.mark.parametrize("name", CASES)
def test_certain_and_hopeless_tokens(name: str) -> None:
    batch = Batch([(1, 1)] * len(LOGPS) ** 2, dtype=torch.float32)
    with torch.no_grad():
        batch.policy.copy_(torch.cartesian_prod(torch.tensor(LOGPS), torch.tensor(LOGPS)).flatten())
    assert_finite(batch, name)


def test_an_empty_rejected_response_adds_nothing_to_sft_and_dpo() -> None:
    batch = Batch([(3, 0)])
    reward = 0.7 * (batch.policy - batch.reference).sum()
    dpo = batch.apply(objective_of("dpo")).losses
    torch.testing.assert_close(dpo, -torch.nn.functional.logsigmoid(reward)[None])
    torch.testing.assert_close(batch.apply(objective_of("sft")).losses, -batch.policy.mean()[None])
    assert Batch([(0, 2)]).apply(objective_of("sft")).losses.tolist() == [0.0]


@pytest.mark.parametrize("logp", [-1e-6, -1e-5, -1e-3, -0.1, -0.6, -0.7, -3.0, -15.0, -100.0])
def test_log_odds_keep_their_digits(logp: float) -> None:
    """log odds of ORPO in float32 against float64, from a near-certain to a hopeless response, with the gradient."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        batch = Batch([(1, 1)], dtype=dtype)
        with torch.no_grad():
            batch.policy.copy_(torch.tensor([logp, -1.0]))
        losses, metrics = batch.apply(objective_of("orpo"))
        (gradient,) = torch.autograd.grad(losses.sum(), batch.policy)
        found[dtype] = (metrics["log_odds_chosen"].double(), gradient.double())
    of_chosen, of_rejected = (x - math.log(-math.expm1(x)) for x in (logp, -1.0))
    assert found[torch.float64][0].item() == pytest.approx(of_chosen - of_rejected, rel=1e-6)
    for narrow, wide in zip(found[torch.float32], found[torch.float64], strict=True):
        torch.testing.assert_close(narrow, wide, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_odpo_with_scores_that_float32_cannot_tell_apart(alpha: float) -> None:
    batch = Batch([(2, 2)], dtype=torch.float32)
    assert batch.responses.scores is not None
    batch.responses.scores.fill_(1.0)
    losses = batch.apply(objective_of("odpo", alpha=alpha)).losses
    (gradient,) = torch.autograd.grad(losses.sum(), batch.policy)
    assert losses.isfinite().all() and gradient.isfinite().all()

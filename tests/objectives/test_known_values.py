"""Values that are known without a computation, and objectives that equal each other."""

from __future__ import annotations

import math

import pytest
import torch

from sparsepo_dist.contracts import TokenMasks
from tests.objectives.cases import CASES, CONSTANTS, Batch, apply, objective_of

LOG_TWO = [
    "dpo", "dpo_smoothed", "dpo_robust", "dpop", "beta_dpo", "tdpo1", "tdpo2", "sepo", "sparsepo", "sparsepo_released",
    "mapo", "sparsepo_alpha", "dpo_norm", "ld_dpo", "sampo", "d2po", "f_dpo_alpha", "f_dpo_js",
    "tgdpo", "tis_dpo", "tis_dpo_released",
]  # fmt: skip


def at_the_reference() -> Batch:
    """A policy that is its reference."""
    batch = Batch()
    with torch.no_grad():
        batch.reference.copy_(batch.policy)
        batch.divergence.zero_()
    return batch


@pytest.mark.parametrize("name", LOG_TWO)
def test_policy_equal_to_reference_gives_log_two(name: str) -> None:
    no_l1 = {"l1_reward": 0.0, "l1_divergence": 0.0} if "l1_reward" in CASES[name] else {}
    losses = at_the_reference().apply(objective_of(name, **no_l1), history=None).losses
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(2)), rtol=1e-14, atol=0)


def test_policy_equal_to_reference_in_the_other_objectives() -> None:
    batch, beta, wrong = at_the_reference(), CONSTANTS["beta"], CONSTANTS["smoothing"]
    ones = torch.ones(3).double()
    assert batch.responses.scores is not None
    lead = (batch.responses.scores[:, 0] - batch.responses.scores[:, 1]).double()
    wanted = {
        "dpo_hinge": ones,
        "dpo_ipo": ones / (2 * beta) ** 2,
        "dpo_ipo_sum": ones / (2 * beta) ** 2,
        "dpo_exo": ones * -math.log(2 * math.sqrt(wrong * (1 - wrong))),
        "dpo_nca": ones * 2 * math.log(2),
        "dpo_bco_pair": ones * 2 * math.log(2),
        "bco": ones * 2 * math.log(2),
        "dpo_sppo": ones / (2 * beta**2),
        "dpo_apo_zero": ones,
        "dpo_apo_down": ones,
        "dpo_discopop": ones * (math.log(2) + 1) / 2,
        "odpo": torch.log(1 + lead ** CONSTANTS["alpha"]),
        "kto": ones * (CONSTANTS["desirable"] + CONSTANTS["undesirable"]) / 4,
    }
    for name, value in wanted.items():
        torch.testing.assert_close(batch.apply(objective_of(name), history=None).losses, value, rtol=1e-12, atol=0)
    plain = objective_of("kto", desirable_weight=1.0, undesirable_weight=1.0)
    assert batch.apply(plain).losses.tolist() == [0.5] * 3


def test_equal_mean_likelihoods_in_objectives_without_a_reference() -> None:
    batch = Batch()
    with torch.no_grad():
        batch.policy.fill_(-0.5)
    simpo = batch.apply(objective_of("simpo")).losses
    torch.testing.assert_close(simpo, torch.full_like(simpo, math.log(1 + math.exp(CONSTANTS["gamma"]))))
    orpo = batch.apply(objective_of("orpo")).losses
    torch.testing.assert_close(orpo, torch.full_like(orpo, 0.5 + CONSTANTS["beta"] * math.log(2)))


@pytest.mark.parametrize(
    "name",
    [
        "dpo",
        "dpo_norm",
        "tdpo1",
        "sepo",
        "sparsepo",
        "sparsepo_released",
        "sparsepo_alpha",
        "mapo",
        "beta_dpo",
        "ld_dpo",
        "d2po",
        "tgdpo",
        "tis_dpo",
        "tis_dpo_released",
    ],
)
def test_swapping_the_responses_mirrors_the_margin(name: str) -> None:
    """-log s(x) and -log s(-x) satisfy exp(-a) + exp(-b) = 1."""
    no_l1 = {"l1_reward": 0.0, "l1_divergence": 0.0} if "l1_reward" in CASES[name] else {}
    batch, objective = Batch(), objective_of(name, **no_l1)
    losses = batch.apply(objective, history=None).losses
    batch.responses.sequence_id.bitwise_xor_(1)
    mirrored = batch.apply(objective, history=None).losses
    torch.testing.assert_close((-losses).exp() + (-mirrored).exp(), torch.ones(3).double())


def test_swapping_the_responses_of_the_other_symmetric_objectives() -> None:
    """Smoothed losses differ by their tilt; SimPO mirrors about gamma; KTO's halves change places."""
    batch, mirror = Batch(), Batch()
    mirror.responses.sequence_id.bitwise_xor_(1)
    smoothed = objective_of("dpo_smoothed")
    margin = batch.apply(smoothed).metrics["rewards/margins"]
    difference = mirror.apply(smoothed).losses - batch.apply(smoothed).losses
    torch.testing.assert_close(difference, margin * (1 - 2 * CONSTANTS["smoothing"]))
    simpo = objective_of("simpo", gamma=0.0)
    both = batch.apply(simpo).losses, mirror.apply(simpo).losses
    torch.testing.assert_close((-both[0]).exp() + (-both[1]).exp(), torch.ones(3).double())
    orpo = [b.apply(objective_of("orpo")) for b in (batch, mirror)]
    torch.testing.assert_close(orpo[0].metrics["log_odds_chosen"], -orpo[1].metrics["log_odds_chosen"])


def test_released_form_with_masks_of_one_is_tdpo1() -> None:
    batch = Batch()
    sparse, tdpo = objective_of("sparsepo_released", l1_reward=0.0, l1_divergence=0.0), objective_of("tdpo1")
    ones = torch.ones_like(batch.policy)
    masked = apply(sparse, batch.stats(sparse), TokenMasks(ones, ones), batch.responses).losses
    torch.testing.assert_close(masked, batch.apply(tdpo).losses, rtol=1e-14, atol=1e-15)


def test_a_policy_that_says_what_it_is_likeliest_to_say_weighs_its_losses_as_dpo_does() -> None:
    """log pi(y) = log of the sum of pi^2 where pi is uniform over what it can say at all: WPO is DPO of its form."""
    batch = Batch()
    batch.log_squares = batch.policy.detach().clone()
    for form in ("sigmoid", "ipo"):
        wpo, dpo = (batch.apply(objective_of(f"{name}", form=form)) for name in ("wpo", "dpo"))
        assert torch.equal(wpo.losses, dpo.losses) and wpo.metrics["on_policy_weight"].tolist() == [1.0] * 3
    batch.log_squares = batch.log_squares + 1.0
    halved = batch.apply(objective_of("wpo"))
    torch.testing.assert_close(halved.losses, batch.apply(objective_of("dpo")).losses * math.exp(-2))


def test_tis_dpo_with_its_divergence_is_sparsepo_and_without_it_tgdpo() -> None:
    """With the same masks."""
    batch, no_l1 = Batch(), {"l1_reward": 0.0, "l1_divergence": 0.0}
    whole = batch.apply(objective_of("tis_dpo", alpha=1.0)).losses
    torch.testing.assert_close(whole, batch.apply(objective_of("sparsepo", **no_l1)).losses, rtol=1e-14, atol=1e-15)
    assert torch.equal(batch.apply(objective_of("tis_dpo_released")).losses, batch.apply(objective_of("tgdpo")).losses)


def test_sepo_with_every_token_selected_is_dpo_and_with_none_is_log_two() -> None:
    batch, sepo = Batch(), objective_of("sepo")
    dpo = batch.apply(objective_of("dpo")).losses
    for selected, wanted in ((1.0, dpo), (0.0, torch.full_like(dpo, math.log(2)))):
        mask = torch.full_like(batch.policy, selected)
        losses = apply(sepo, batch.stats(sepo), TokenMasks(mask, mask), batch.responses).losses
        torch.testing.assert_close(losses, wanted, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dpop", {"penalty": 0.0}),
        ("odpo", {"alpha": 0.0}),
        ("beta_dpo", {"alpha": 0.0}),
        ("dpo_nll", {"nll_weight": 0.0}),
        ("ld_dpo", {"alpha": 1.0}),
        ("f_dpo_alpha", {"alpha": 0.0}),
        ("d2po", {"gamma": 1.0}),
        ("dpo_smoothed", {"label_smoothing": 0.0}),
        ("dpo_robust", {"label_smoothing": 0.0}),
    ],
)
def test_what_is_dpo_without_its_addition(name: str, changes: dict[str, float]) -> None:
    batch = Batch()
    losses = batch.apply(objective_of(name, **changes)).losses
    torch.testing.assert_close(losses, batch.apply(objective_of("dpo")).losses, rtol=1e-14, atol=1e-15)


def test_alphapo_at_alpha_0_is_simpo() -> None:
    batch = Batch()
    assert torch.equal(
        batch.apply(objective_of("alphapo", alpha=0.0)).losses, batch.apply(objective_of("simpo")).losses
    )


def test_confpo_moves_unsure_tokens_alone() -> None:
    """Of each response those below its mean probability; a pair without one adds nothing."""
    batch = Batch([(3, 2), (1, 4)])
    with torch.no_grad():
        batch.policy.copy_(torch.tensor([0.9, 0.1, 0.2, 0.8, 0.3, 0.5, 0.9, 0.1, 0.1, 0.1]).double().log())
    losses, metrics = batch.apply(objective_of("confpo"))
    (gradient,) = torch.autograd.grad(losses.sum(), batch.policy)
    assert (gradient != 0).tolist() == [False, True, True, False, True] + [False] * 5
    assert losses[1].item() == 0
    assert metrics["unsure/chosen"].tolist() == pytest.approx([2 / 3, 0])


def test_dpop_punishes_only_a_chosen_response_that_lost_likelihood() -> None:
    batch = Batch()
    dpo, dpop = (batch.apply(objective_of(name)) for name in ("dpo", "dpop"))
    lost = dpo.metrics["rewards/chosen"] < 0
    assert lost.any() and not lost.all()
    assert (dpop.losses[lost] > dpo.losses[lost]).all()
    assert torch.equal(dpop.losses[~lost], dpo.losses[~lost])


def test_robust_loss_is_unbiased_under_flipped_labels() -> None:
    """Its mean over labels flipped with probability e is the loss of the right labels."""
    batch, mirror = Batch(), Batch()
    mirror.responses.sequence_id.bitwise_xor_(1)
    robust, e = objective_of("dpo_robust"), CONSTANTS["smoothing"]
    mean = (1 - e) * batch.apply(robust).losses + e * mirror.apply(robust).losses
    torch.testing.assert_close(mean, batch.apply(objective_of("dpo")).losses, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "averages"), [("dpo_ipo", True), ("dpo_ipo_sum", False), ("dpo_norm", True)])
def test_what_averages_over_tokens(name: str, averages: bool) -> None:
    """Repeating every token leaves the loss of the mean alone."""
    batch, twice = Batch([(2, 3)]), Batch([(4, 6)])
    ids = batch.responses.sequence_id
    with torch.no_grad():
        for leaf in ("policy", "reference"):
            getattr(twice, leaf).copy_(getattr(batch, leaf).repeat_interleave(2))
    assert torch.equal(twice.responses.sequence_id, ids.repeat_interleave(2))
    losses = [some.apply(objective_of(name)).losses for some in (twice, batch)]
    assert torch.allclose(*losses, rtol=1e-12, atol=0) == averages

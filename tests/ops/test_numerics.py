"""Where float32 and bfloat16 hurt: extreme, masked, one-hot and nearly equal distributions, any shape."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsepo_dist.ops import AlphaDivergence, Divergence, Head, tiles, token_stats
from tests.support.head import AVAILABLE, BACKENDS, FORMS, N, backend_config, brute_divergence, inputs


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_equal_models_have_exactly_no_divergence(form: Divergence, backend: str) -> None:
    x = inputs(torch.float32)
    stats = token_stats(
        x["hidden"], x["head"], x["labels"], x["hidden"], x["head"], divergence=form, config=backend_config(backend)
    )
    assert torch.equal(stats.divergence, torch.zeros(N))
    assert torch.equal(stats.policy_logp, stats.reference_logp)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [1e-6, 1e-4, 1e-2])
def test_kl_of_neighbours_is_never_negative(form: Divergence, backend: str, step: float) -> None:
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(64, 8, generator=g), torch.randn(3000, 8, generator=g)
    other = weight + step * torch.randn(3000, 8, generator=g)
    stats = token_stats(
        hidden, Head(weight), torch.zeros(64, dtype=torch.int64), hidden, Head(other), divergence=form,
        config=backend_config(backend),
    )  # fmt: skip
    sign = -1 if form == "reference" else 1
    log_p, log_r = ((hidden @ w.T).double().log_softmax(-1) for w in (weight, other))
    assert (sign * stats.divergence >= 0).all()
    # An alpha-divergence divides its roundings by alpha (1 - alpha).
    bound = 1e-6 / (form.alpha * (1 - form.alpha)) if isinstance(form, AlphaDivergence) else 1e-6
    assert (stats.divergence.double() - brute_divergence(log_p, log_r, form)).abs().max() < bound


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_stay_finite(form: Divergence, backend: str) -> None:
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    head, other = Head(torch.tensor([[1.0], [-1.0], [0.5]])), Head(torch.tensor([[1.0], [-1.0], [0.0]]))
    stats = token_stats(
        hidden, head, torch.tensor([0, 1, 2]), hidden.detach(), other, divergence=form, config=backend_config(backend)
    )
    (stats.policy_logp.sum() + stats.divergence.sum()).backward()
    assert stats.divergence.isfinite().all() and hidden.grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_are_as_exact_as_ordinary_ones(form: Divergence, backend: str) -> None:
    """Logits of +-1e4 with gaps of a few nats: what counts is the gap, which float32 holds to 1e-3 there."""
    config = backend_config(backend)
    base = torch.tensor([1e4, 1e4 - 2, 1e4 - 3.5, -1e4, 0.0])
    other = torch.tensor([1e4 - 1, 1e4, 1e4 - 3, -1e4, 5.0])
    eye = torch.eye(5)
    for policy, reference in ((base, other), (-base, -other), (base, base)):
        # A row of the identity over a head whose columns are the logits gives exactly these logits.
        hidden = eye[:1].clone().requires_grad_()
        weight, ref_weight = torch.zeros(5, 5), torch.zeros(5, 5)
        weight[:, 0], ref_weight[:, 0] = policy, reference
        stats = token_stats(
            hidden, Head(weight), torch.tensor([1]), eye[:1], Head(ref_weight), divergence=form, config=config
        )
        (stats.policy_logp + 3 * stats.divergence).sum().backward()
        leaf = policy.double().requires_grad_()
        log_p, log_r = leaf.log_softmax(-1), reference.double().log_softmax(-1)
        v = brute_divergence(log_p, log_r, form)
        (log_p[1] + 3 * v).backward()
        torch.testing.assert_close(stats.policy_logp[0].double(), log_p[1].detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(stats.divergence[0].double(), v.detach(), rtol=1e-5, atol=1e-6)
        # All of hidden's gradient is logits' gradient times the logits.
        want = (leaf.grad @ weight.double())[0]
        assert abs(hidden.grad[0, 0].double() - want) <= 1e-5 * leaf.grad.abs().max() * 1e4


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_vocabulary_gives_no_nan(backend: str) -> None:
    x = inputs(torch.float32)
    bias = x["head"].bias.clone()
    bias[3] = -math.inf
    x["labels"][x["labels"] == 3] = 2
    hidden = x["hidden"].requires_grad_()
    stats = token_stats(
        hidden, Head(x["head"].weight, bias), x["labels"], x["reference_hidden"], x["reference_head"],
        divergence="policy", config=backend_config(backend),
    )  # fmt: skip
    stats.divergence.sum().backward()
    assert stats.divergence.isfinite().all() and hidden.grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first_tile", [False, True])
def test_vocabulary_masked_in_both_models_counts_nothing(form: Divergence, backend: str, first_tile: bool) -> None:
    """Entries at -inf give what a vocabulary without them gives, even where they fill a whole tile."""
    vocabulary = 3 * 70
    g = torch.Generator().manual_seed(1)
    hidden, weight, other = (torch.randn(n, 3, generator=g) for n in (4, vocabulary, vocabulary))
    masked = torch.zeros(vocabulary)
    masked[:70] = -math.inf if first_tile else 0.0
    masked[75:140:3] = -math.inf
    labels = torch.tensor([70, 71, 200, 209])
    config = backend_config(backend, 4 * 70 * 4 * 2)
    allowed = masked == 0
    kept = torch.cumsum(allowed, 0) - 1
    found = []
    for w, r, bias, targets in (
        (weight, other, masked, labels),
        (weight[allowed], other[allowed], torch.zeros(int(allowed.sum())), kept[labels]),
    ):
        h = hidden.clone().requires_grad_()
        stats = token_stats(h, Head(w, bias), targets, hidden, Head(r, bias), divergence=form, config=config)
        (stats.policy_logp.sum() - 2 * stats.divergence.sum()).backward()
        found.append((stats.policy_logp, stats.reference_logp, stats.divergence, h.grad))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_a_confident_label_keeps_its_digits(backend: str) -> None:
    """At p = 0.9999 the label's gradient is 1 - p: not the bfloat16 rounding of -p plus 1."""
    logits = torch.tensor([[9.0, 0.0, -1.0]], dtype=torch.bfloat16)
    hidden = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    stats = token_stats(hidden, Head(logits.T.contiguous()), torch.tensor([0]), config=backend_config(backend))
    stats.policy_logp.sum().backward()
    leaf = logits.double().requires_grad_()
    leaf.log_softmax(-1)[0, 0].backward()
    torch.testing.assert_close(hidden.grad.double(), leaf.grad @ logits.double().T, rtol=2**-7, atol=0)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(0, 9), vocabulary=st.integers(1, 70), tile=st.integers(1, 4000), keep=st.integers(0, 4000),
    seed=st.integers(0, 2**20), form=st.sampled_from([*FORMS, AlphaDivergence(0.9)]), band=st.integers(1, 9),
    backend=st.sampled_from(AVAILABLE), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    dropped=st.floats(0, 1), has_bias=st.booleans(),
)  # fmt: skip
def test_any_shape_dtype_mask_and_cut_agrees_with_float64(
    rows: int, vocabulary: int, tile: int, keep: int, seed: int, form: Divergence, backend: str, dtype: torch.dtype,
    dropped: float, band: int, has_bias: bool,
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    hidden, weight, other = (torch.randn(n, 3, generator=g).to(dtype) for n in (rows, vocabulary, vocabulary))
    bias = torch.randn(vocabulary, generator=g).to(dtype) if has_bias else None
    labels = torch.randint(vocabulary, (rows,), generator=g)
    active = torch.rand(rows, generator=g) >= dropped
    # Logits are rounded to the dtype by the head product; everything after that is float32.
    logits, ref_logits = hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T), hidden @ other.T
    leaves = [t for t in (hidden, weight, bias) if t is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    with mock.patch.object(tiles, "MOST_ROWS", band):
        stats = token_stats(
            hidden, Head(weight, bias), labels, hidden.detach(), Head(other), divergence=form, active=active,
            config=backend_config(backend, tile, keep),
        )  # fmt: skip
        (stats.policy_logp.sum() - 2 * stats.divergence.sum()).backward()
    z = logits.detach().double().requires_grad_()
    log_p, log_r = z.log_softmax(-1), ref_logits.double().log_softmax(-1)
    want_v = brute_divergence(log_p, log_r, form)
    want_logp = log_p.gather(-1, labels[:, None]).squeeze(-1)
    torch.testing.assert_close(stats.divergence.double(), want_v.detach() * active, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(stats.policy_logp.double(), want_logp.detach() * active, rtol=1e-5, atol=2e-6)
    ((want_logp - 2 * want_v) * active).sum().backward()
    wanted = (z.grad @ weight.detach().double(), z.grad.T @ hidden.detach().double(), z.grad.sum(0))
    bound = 1e-5 if dtype == torch.float32 else 0.05
    for leaf, want in zip(leaves, wanted, strict=False):
        assert (leaf.grad.double() - want).norm() <= bound * (1 + want.norm())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [-1e4, -1e9, torch.finfo(torch.float32).min])
def test_an_entry_masked_by_a_large_finite_value_costs_no_digits(backend: str, form: Divergence, value: float) -> None:
    """In the model that weighs the ratio only, and first of all entries: it meets whatever a block starts with."""
    g = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(300, generator=g) for name in ("policy", "reference")}
    logits["reference" if form == "reference" else "policy"][0] = value
    policy = logits["policy"].requires_grad_()
    zero = torch.zeros(1, 1)
    stats = token_stats(
        zero, Head(torch.zeros(300, 1), policy), torch.tensor([5]),
        zero, Head(torch.zeros(300, 1), logits["reference"]), divergence=form, config=backend_config(backend),
    )  # fmt: skip
    stats.divergence.sum().backward()
    leaf = policy.detach().double().requires_grad_()
    log_p, log_r = leaf.log_softmax(-1), logits["reference"].double().log_softmax(-1)
    want = brute_divergence(log_p, log_r, form)
    want.backward()
    torch.testing.assert_close(stats.divergence[0].double(), want.detach(), rtol=1e-5, atol=1e-6)
    assert (policy.grad - leaf.grad).norm() <= 1e-5 * leaf.grad.norm()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tile_bytes", [1, 10**6])
@pytest.mark.parametrize("where", ["policy", "reference"])
@pytest.mark.parametrize("form", ["policy", AlphaDivergence(0.3)])
def test_a_nan_among_masked_entries_is_seen(backend: str, tile_bytes: int, where: str, form: Divergence) -> None:
    bias = torch.zeros(3000 if tile_bytes > 1 else 3)
    bias[: len(bias) * 2 // 3] = -math.inf
    bias[0] = math.nan
    heads = {name: Head(torch.zeros(len(bias), 1), torch.zeros(len(bias))) for name in ("policy", "reference")}
    heads[where] = Head(torch.zeros(len(bias), 1), bias)
    zero, label = torch.zeros(1, 1), torch.tensor([len(bias) - 1])
    stats = token_stats(
        zero, heads["policy"], label, zero, heads["reference"], divergence=form,
        config=backend_config(backend, tile_bytes),
    )  # fmt: skip
    assert (stats.policy_logp if where == "policy" else stats.reference_logp).isnan().all()
    assert stats.divergence.isnan().all()

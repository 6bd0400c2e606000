"""What the operation does not do: products of tokens that count nothing, memory beyond a tile."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsepo_dist.ops import Divergence, Head, OpsConfig, tiles, token_stats
from sparsepo_dist.ops.tiles import MOST_ROWS, plan_tiles
from tests.support.head import BACKENDS, D_REF, FORMS, D, N, V, backend_config, brute_divergence, count_products, inputs


def test_inactive_tokens_cost_no_head_product(monkeypatch: pytest.MonkeyPatch) -> None:
    x = inputs()
    products = count_products(monkeypatch)
    active = torch.arange(N) % 3 == 0
    stats = token_stats(**x, divergence="policy", active=active)
    assert products == [(3, D), (3, D_REF)] and stats.complete is False
    whole = token_stats(**x, divergence="policy")
    torch.testing.assert_close(stats.divergence, whole.divergence * active)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep_bytes", [0, 10**6])
@pytest.mark.parametrize("form", FORMS)
def test_rows_without_upstream_gradient_cost_no_product(
    form: Divergence, keep_bytes: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = inputs(torch.float32)
    grad_logp = torch.tensor([1.0, 0, 2, 0, 0, -1, 0])
    grad_v = torch.tensor([0.0, 0, 3, 0, -2, 0, 0])
    config = backend_config(backend, 2 * 4 * V * 4, keep_bytes)
    products = count_products(monkeypatch)

    def gradients(logp_weight: torch.Tensor, v_weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h, w, b = (t.clone().requires_grad_() for t in (x["hidden"], *x["head"][:2]))
        stats = token_stats(
            h, Head(w, b), x["labels"], x["reference_hidden"], x["reference_head"], divergence=form, config=config
        )
        products.clear()
        (logp_weight * stats.policy_logp + v_weight * stats.divergence).sum().backward()
        return h.grad, w.grad, b.grad

    got = gradients(grad_logp, grad_v)
    # Four rows have a gradient, two of them one of the divergence, which alone needs the reference's logits.
    assert products == ([] if keep_bytes else 2 * [(4, D), (2, D_REF)])
    # A weight of 1e-30 is a gradient of nothing, but it is not 0: no row is left out.
    want = gradients(grad_logp + 1e-30, grad_v + 1e-30)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for grad in gradients(torch.zeros(N), torch.zeros(N)):
        assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", [None, "policy"])
def test_memory_grows_with_a_tile_and_not_with_rows_times_vocabulary(backend: str, form: str | None) -> None:
    rows, vocabulary = 1024, 4096
    hidden = torch.randn(rows, 8, requires_grad=True)
    weight = torch.randn(vocabulary, 8, requires_grad=True)
    tile = 2 * 32 * vocabulary * 4
    config = backend_config(backend, tile)
    with torch.profiler.profile(profile_memory=True) as profile:
        stats = token_stats(
            hidden, Head(weight), torch.zeros(rows, dtype=torch.int64), hidden.detach(), Head(weight.detach()),
            divergence=form, config=config,
        )  # fmt: skip
        sum(s.sum() for s in (stats.policy_logp, stats.divergence) if s is not None).backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    # Eager arithmetic makes float64 and bool copies of a tile on the way.
    assert tile / 2 <= largest <= (4 if backend == "eager" else 1) * tile


@pytest.mark.parametrize("keep_bytes", [0, 300_000, 10**9])
@pytest.mark.parametrize("form", FORMS)
def test_more_rows_than_a_band_give_the_same(form: Divergence, keep_bytes: int) -> None:
    rows, vocabulary = 2 * MOST_ROWS + 37, 23
    g = torch.Generator().manual_seed(0)
    hidden, weight, other = (
        torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (rows, vocabulary, vocabulary)
    )
    labels = torch.randint(vocabulary, (rows,), generator=g)
    weights = torch.randn(rows, generator=g, dtype=torch.float64) * (torch.rand(rows, generator=g) < 0.4)
    found = []
    for name in ("band", "whole"):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if name == "band":
            config = OpsConfig("eager", 2 * MOST_ROWS * 8 * 8, keep_bytes)
            stats = token_stats(h, Head(w), labels, hidden, Head(other), divergence=form, config=config)
            logp, v = stats.policy_logp, stats.divergence
        else:
            log_p, log_r = (h @ w.T).log_softmax(-1), (hidden @ other.T).log_softmax(-1)
            v = brute_divergence(log_p, log_r, form)
            logp = log_p.gather(-1, labels[:, None]).squeeze(-1)
        (weights * (logp + 2 * v)).sum().backward()
        found.append((logp, v, h.grad, w.grad))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(0, 20_000), vocabulary=st.integers(1, 300_000), models=st.integers(1, 2),
    element=st.sampled_from([2, 4, 8]), chunk=st.integers(1, 2**28), keep=st.integers(0, 2**30),
)  # fmt: skip
def test_tiles_cover_the_logits_once_within_the_budget(
    rows: int, vocabulary: int, models: int, element: int, chunk: int, keep: int
) -> None:
    assume(chunk >= 2**16 or vocabulary < 2000)  # else: a million tiles to count
    plan = plan_tiles(
        rows, vocabulary, models=models, kept_models=models, element_size=element, tile_bytes=chunk, keep_bytes=keep
    )
    places = []
    for band in range(plan.bands):
        edge = 0
        assert plan.band(band).start == band * plan.band_rows
        for entries, place in plan.tiles(band):
            assert entries.start == edge < entries.stop
            edge = entries.stop
            places += [] if place is None else [place]
        assert edge == vocabulary
    assert (plan.band(plan.bands - 1).stop if rows else 0) == rows
    tile_bytes = plan.tile_size * models * element
    assert tile_bytes <= chunk or plan.width == 1
    assert places == list(range(plan.kept)) and plan.kept * tile_bytes <= keep


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("keep_bytes", [0, 10**6])
def test_products_are_six_at_most_and_two_less_for_kept_logits_and_one_for_a_frozen_head(
    backend: str, trainable: bool, keep_bytes: int
) -> None:
    x = inputs(torch.float32, bias=False)
    x["hidden"].requires_grad_()
    x["head"].weight.requires_grad_(trainable)
    config = backend_config(backend, 2 * N * 4 * 4, keep_bytes)
    tiles = plan_tiles(
        N, V, models=2, kept_models=2, element_size=4, tile_bytes=config.tile_bytes, keep_bytes=0
    ).columns
    with torch.profiler.profile() as profile:
        stats = token_stats(**x, divergence="policy", config=config)
        (stats.policy_logp + stats.divergence).sum().backward()
    products = [event.name for event in profile.events() if event.name in ("aten::mm", "aten::addmm", "aten::addmm_")]
    each = 2 + (0 if keep_bytes else 2) + 1 + trainable
    assert tiles > 1 and len(products) == tiles * each


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_heads_gradient_is_summed_in_float32_over_bands(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred bands that each add 1/256 of the first one's part, which a bfloat16 sum would round away."""
    monkeypatch.setattr(tiles, "MOST_ROWS", 1)
    rows = 257
    hidden = torch.full((rows, 1), 2.0**-8, dtype=torch.bfloat16)
    hidden[0] = 1
    weight = torch.zeros(4, 1, dtype=torch.bfloat16, requires_grad=True)
    stats = token_stats(
        hidden, Head(weight), torch.zeros(rows, dtype=torch.int64), config=backend_config(backend, 10**6)
    )
    stats.policy_logp.sum().backward()
    # Every row has p = 1/4: (1 - 1/4) for the label, -1/4 for the others, times the sum of hidden rows, which is 2.
    torch.testing.assert_close(weight.grad.squeeze(), torch.tensor([1.5, -0.5, -0.5, -0.5], dtype=torch.bfloat16))


@pytest.mark.parametrize(("rows", "vocabulary"), [(10**6, 9), (3, 262144)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_million_rows_and_a_quarter_of_a_million_entries(rows: int, vocabulary: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    hidden, ref_hidden = (torch.randn(rows, 1, generator=g).to(dtype) for _ in range(2))
    weight, ref_weight = (torch.randn(vocabulary, 1, generator=g).to(dtype) for _ in range(2))
    labels = torch.randint(vocabulary, (rows,), generator=g)
    hidden.requires_grad_()
    stats = token_stats(hidden, Head(weight), labels, ref_hidden, Head(ref_weight), divergence="policy")
    stats.divergence.sum().backward()
    leaf = (hidden.detach() @ weight.T).double().requires_grad_()
    log_p, log_r = leaf.log_softmax(-1), (ref_hidden @ ref_weight.T).double().log_softmax(-1)
    v = (log_p.exp() * (log_p - log_r)).sum(-1)
    v.sum().backward()
    torch.testing.assert_close(stats.divergence.double(), v.detach(), rtol=1e-5, atol=2e-6)
    want = leaf.grad @ weight.double()
    assert (hidden.grad.double() - want).norm() <= (1e-5 if dtype == torch.float32 else 2**-6) * want.norm()

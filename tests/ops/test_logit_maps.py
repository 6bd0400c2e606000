"""Logits that a model scales or caps after the head: statistics and gradients against float64 over whole logits."""

from __future__ import annotations

import math

import pytest
import torch

from sparsepo_dist.ops import PLAIN, Divergence, Head, LogitMap, token_stats
from tests.support.head import BACKENDS, D_REF, FORMS, D, N, V, backend_config, brute_divergence, inputs

MAPS = {
    "scaled policy": (LogitMap(0.3), PLAIN),
    "capped reference": (PLAIN, LogitMap(1.0, 1.5)),
    "both, unlike": (LogitMap(2.0, 1.5), LogitMap(1 / 13, 0.7)),
}
by_map = pytest.mark.parametrize("maps", MAPS.values(), ids=list(MAPS))
by_form = pytest.mark.parametrize("form", [None, *FORMS])
by_backend = pytest.mark.parametrize("backend", BACKENDS)


def mapped(products: torch.Tensor, map: LogitMap) -> torch.Tensor:
    """As transformers writes it."""
    scaled = products * map.scale
    return scaled if map.cap == math.inf else torch.tanh(scaled / map.cap) * map.cap


def brute_force(
    products: torch.Tensor,
    ref_products: torch.Tensor,
    labels: torch.Tensor,
    maps: tuple[LogitMap, LogitMap],
    form: Divergence,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log pi, log pi_ref and the divergence from whole products [n, V] in float64."""
    log_p, log_r = (mapped(x, map).log_softmax(-1) for x, map in zip((products, ref_products), maps, strict=True))
    logp, ref_logp = (x.gather(-1, labels[:, None]).squeeze(-1) for x in (log_p, log_r))
    return logp, ref_logp, brute_divergence(log_p, log_r, form)


def with_maps(x: dict, maps: tuple[LogitMap, LogitMap]) -> dict:
    return {
        **x, "head": x["head"]._replace(map=maps[0]), "reference_head": x["reference_head"]._replace(map=maps[1])
    }  # fmt: skip


@by_map
@by_form
def test_gradcheck_and_values_in_float64(maps: tuple[LogitMap, LogitMap], form: Divergence | None) -> None:
    x = with_maps(inputs(), maps)
    leaves = [t.requires_grad_() for t in (x["hidden"], *x["head"][:2])]
    config = backend_config("eager", 2 * 3 * V * 8, 2 * 4 * V * 8)
    products, ref_products = (h @ w.T + b for h, (w, b, _) in (
        (x["hidden"], x["head"]), (x["reference_hidden"], x["reference_head"])
    ))  # fmt: skip

    def run(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
        given = {**x, "hidden": hidden, "head": Head(weight, bias, maps[0])}
        stats = token_stats(**given, divergence=form, config=config)
        return [stats.policy_logp] if form is None else [stats.policy_logp, stats.divergence]

    stats = token_stats(**x, divergence=form, config=config)
    logp, ref_logp, divergence = brute_force(products, ref_products, x["labels"], maps, form or "policy")
    torch.testing.assert_close((stats.policy_logp, stats.reference_logp), (logp, ref_logp), rtol=1e-12, atol=1e-12)
    if form is not None:
        torch.testing.assert_close(stats.divergence, divergence, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(run, leaves)


@by_map
@by_form
@by_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep_bytes", [0, 2 * 60 * N * 4])
def test_every_backend_agrees_with_float64(
    maps: tuple[LogitMap, LogitMap], form: Divergence | None, backend: str, dtype: torch.dtype, keep_bytes: int
) -> None:
    """Some rows inactive, tiles that end within a vector, some of them kept; products rounded to the dtype, no more."""
    g = torch.Generator().manual_seed(3)
    hidden, ref_hidden, weight, ref_weight = (
        torch.randn(*shape, generator=g).to(dtype) for shape in ((N, D), (N, D_REF), (151, D), (151, D_REF))
    )
    labels = torch.randint(151, (N,), generator=g)
    active = torch.arange(N) != 2
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    stats = token_stats(
        hidden, Head(weight, None, maps[0]), labels, ref_hidden, Head(ref_weight, None, maps[1]), divergence=form,
        active=active, config=backend_config(backend, 2 * 60 * N * 4, keep_bytes),
    )  # fmt: skip
    products = (hidden @ weight.T).detach().double().requires_grad_()
    logp, ref_logp, divergence = brute_force(
        products, (ref_hidden @ ref_weight.T).double(), labels, maps, form or "policy"
    )
    got, want = stats.policy_logp.sum(), logp[active].sum()
    if form is not None:
        got, want = got - 2 * stats.divergence.sum(), want - 2 * divergence[active].sum()
        torch.testing.assert_close(stats.divergence.double(), divergence * active, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(stats.policy_logp.double(), logp * active, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(stats.reference_logp.double(), ref_logp * active, rtol=1e-5, atol=2e-6)
    got.backward()
    want.backward()
    wanted = (products.grad @ weight.detach().double(), products.grad.T @ hidden.detach().double())
    for leaf, gradient in zip(leaves, wanted, strict=True):
        assert (leaf.grad - gradient).norm() <= (1e-5 if dtype == torch.float32 else 2**-6) * gradient.norm()


@by_backend
def test_a_gradient_beneath_the_cap_keeps_its_digits(backend: str) -> None:
    """At nine caps the slope is 6e-8, which 1 - tanh^2 in float32 has as 0 or twice as much."""
    bias = torch.tensor([18.0, -18.0, 1e-3, 0.4, 7.0]).requires_grad_()
    zero, label = torch.zeros(1, 1), torch.tensor([2])
    stats = token_stats(zero, Head(torch.zeros(5, 1), bias, LogitMap(1.0, 2.0)), label, config=backend_config(backend))
    stats.policy_logp.sum().backward()
    leaf = bias.detach().double().requires_grad_()
    mapped(leaf, LogitMap(1.0, 2.0)).log_softmax(-1)[2].backward()
    torch.testing.assert_close(bias.grad.double(), leaf.grad, rtol=1e-5, atol=0)


@by_backend
@pytest.mark.parametrize("vocabulary", [3, 40, 3000])
def test_an_entry_at_minus_infinity_is_one_at_the_cap_as_the_model_has_it(backend: str, vocabulary: int) -> None:
    bias = torch.zeros(vocabulary)
    bias[1:] = -math.inf
    zero, label = torch.zeros(1, 1), torch.tensor([0])
    head = Head(torch.zeros(vocabulary, 1), bias, LogitMap(1.0, 2.0))
    stats = token_stats(zero, head, label, zero, head, divergence="policy", config=backend_config(backend))
    want = -math.log(1 + (vocabulary - 1) * math.exp(-2))
    torch.testing.assert_close(stats.policy_logp, torch.tensor([want]), rtol=1e-5, atol=1e-6)
    assert stats.divergence.tolist() == [0]


def test_compiled_graphs_map_too() -> None:
    x = with_maps(inputs(torch.float32), MAPS["both, unlike"])
    hidden = x.pop("hidden").requires_grad_()

    def loss(hidden: torch.Tensor) -> torch.Tensor:
        stats = token_stats(hidden, **x, divergence="policy")
        return (stats.policy_logp + 2 * stats.divergence).sum()

    (want,) = torch.autograd.grad(loss(hidden), hidden)
    (got,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(hidden), hidden)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    "map", [LogitMap(0.0), LogitMap(-1.0), LogitMap(math.inf), LogitMap(1.0, 0.0), LogitMap(1, math.nan)]
)
def test_a_map_that_cannot_be_is_refused(map: LogitMap) -> None:
    x = inputs()
    with pytest.raises(ValueError, match="the head of reference_hidden has LogitMap"):
        token_stats(**{**x, "reference_head": x["reference_head"]._replace(map=map)}, divergence="policy")

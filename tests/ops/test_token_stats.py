"""token_stats: its numbers, its gradients and its refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsepo_dist.contracts import TokenStats
from sparsepo_dist.ops import Head, OpsConfig, token_stats

N, D, D_REF, V = 7, 5, 4, 11


def inputs(dtype: torch.dtype = torch.float64, bias: bool = True, seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    return {
        "hidden": normal(N, D),
        "head": Head(normal(V, D), normal(V) if bias else None),
        "labels": torch.randint(V, (N,), generator=g),
        "reference_hidden": normal(N, D_REF),
        "reference_head": Head(normal(V, D_REF), normal(V) if bias else None),
    }


def full_logits(hidden: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
    logits = hidden.double() @ head.weight.double().T
    logits = logits if head.bias is None else logits + head.bias.double()
    probs = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return probs, probs.log()


BACKENDS = ("eager", "cpp")


def expected(x: dict, form: str) -> TokenStats:
    p, log_p = full_logits(x["hidden"], x["head"])
    r, log_r = full_logits(x["reference_hidden"], x["reference_head"])
    rows = torch.arange(len(x["labels"]))
    q = p if form == "policy" else r
    return TokenStats(log_p[rows, x["labels"]], log_r[rows, x["labels"]], (q * (log_p - log_r)).sum(-1))


@pytest.mark.parametrize("form", ["policy", "reference"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk_bytes", [1, 2 * 3 * V * 8, 10**6])
def test_values_equal_full_logits(form: str, bias: bool, chunk_bytes: int, keep_bytes: int = 0) -> None:
    x = inputs(bias=bias)
    got, want = (
        token_stats(**x, divergence=form, config=OpsConfig(chunk_bytes=chunk_bytes, keep_bytes=keep_bytes)),
        expected(x, form),
    )
    for name in ("policy_logp", "reference_logp", "divergence"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keep_bytes", [0, 2 * 4 * V * 8, 10**6])
@pytest.mark.parametrize("form", ["policy", "reference"])
def test_gradcheck_of_hidden_weight_and_bias(form: str, keep_bytes: int) -> None:
    x = inputs()
    wanted = [t.requires_grad_() for t in (x["hidden"], *x["head"])]

    def run(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stats = token_stats(
            hidden, Head(weight, bias), x["labels"], x["reference_hidden"], x["reference_head"],
            divergence=form, config=OpsConfig(chunk_bytes=2 * 3 * V * 8, keep_bytes=keep_bytes),
        )  # fmt: skip
        return stats.policy_logp, stats.divergence

    assert torch.autograd.gradcheck(run, wanted)


def test_gradcheck_without_reference() -> None:
    x = inputs(bias=False)
    weight, hidden = x["head"].weight.requires_grad_(), x["hidden"].requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: token_stats(h, Head(w), x["labels"]).policy_logp, [hidden, weight])


@pytest.mark.parametrize("form", ["policy", "reference"])
@pytest.mark.parametrize("keep_bytes", [0, 2 * 4 * V * 4, 10**6])
@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_gradients_are_within_1e_5_of_float64(backend: str, keep_bytes: int, form: str) -> None:
    results = []
    for dtype in (torch.float64, torch.float32):
        x = inputs(torch.float32)
        hidden = x["hidden"].to(dtype).requires_grad_()
        weight = x["head"].weight.to(dtype).requires_grad_()
        bias = x["head"].bias.to(dtype)
        reference = Head(*(t.to(dtype) for t in x["reference_head"]))
        stats = token_stats(
            hidden, Head(weight, bias), x["labels"], x["reference_hidden"].to(dtype), reference, divergence=form,
            config=OpsConfig("eager" if dtype == torch.float64 else backend, 2 * 3 * V * 4, keep_bytes),
        )  # fmt: skip
        (stats.policy_logp.sum() + 2 * stats.divergence.sum()).backward()
        results.append((hidden.grad.double(), weight.grad.double()))
    for wide, narrow in zip(*results, strict=True):
        assert (wide - narrow).norm() / wide.norm() < 1e-5


def test_frozen_head_gets_no_gradient_and_hidden_still_does() -> None:
    x = inputs()
    x["hidden"].requires_grad_()
    token_stats(**x, divergence="policy").divergence.sum().backward()
    assert x["head"].weight.grad is None
    assert x["hidden"].grad.abs().sum() > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["policy", "reference"])
def test_equal_models_have_exactly_no_divergence(form: str, backend: str) -> None:
    x = inputs(torch.float32)
    stats = token_stats(
        x["hidden"], x["head"], x["labels"], x["hidden"], x["head"], divergence=form, config=OpsConfig(backend)
    )
    assert torch.equal(stats.divergence, torch.zeros(N))
    assert torch.equal(stats.policy_logp, stats.reference_logp)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["policy", "reference"])
def test_extreme_logits_stay_finite(form: str, backend: str) -> None:
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    head, other = Head(torch.tensor([[1.0], [-1.0], [0.5]])), Head(torch.tensor([[1.0], [-1.0], [0.0]]))
    stats = token_stats(
        hidden, head, torch.tensor([0, 1, 2]), hidden.detach(), other, divergence=form, config=OpsConfig(backend)
    )
    (stats.policy_logp.sum() + stats.divergence.sum()).backward()
    assert stats.divergence.isfinite().all() and hidden.grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_vocabulary_gives_no_nan(backend: str) -> None:
    x = inputs(torch.float32)
    bias = x["head"].bias.clone()
    bias[3] = -math.inf
    x["labels"][x["labels"] == 3] = 2
    hidden = x["hidden"].requires_grad_()
    stats = token_stats(
        hidden, Head(x["head"].weight, bias), x["labels"], x["reference_hidden"], x["reference_head"],
        divergence="policy", config=OpsConfig(backend),
    )  # fmt: skip
    stats.divergence.sum().backward()
    assert stats.divergence.isfinite().all() and hidden.grad.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 9), vocabulary=st.integers(1, 70), chunk=st.integers(1, 4000), keep=st.integers(0, 4000),
    seed=st.integers(0, 2**20), form=st.sampled_from(["policy", "reference"]), backend=st.sampled_from(BACKENDS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]), dropped=st.floats(0, 1),
)  # fmt: skip
def test_any_shape_dtype_mask_and_chunk_agrees_with_float64(
    rows: int, vocabulary: int, chunk: int, keep: int, seed: int, form: str, backend: str, dtype: torch.dtype,
    dropped: float,
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    hidden, weight, other = (torch.randn(n, 3, generator=g).to(dtype) for n in (rows, vocabulary, vocabulary))
    labels = torch.randint(vocabulary, (rows,), generator=g)
    active = torch.rand(rows, generator=g) >= dropped
    # Logits are rounded to the dtype by the head product; everything after that is float32.
    logits, ref_logits = ((hidden @ w.T).double() for w in (weight, other))
    hidden.requires_grad_()
    stats = token_stats(
        hidden, Head(weight), labels, hidden.detach(), Head(other), divergence=form, active=active,
        config=OpsConfig(backend, chunk, keep),
    )  # fmt: skip
    leaf = logits.clone().requires_grad_()
    log_p, log_r = leaf.log_softmax(-1), ref_logits.log_softmax(-1)
    want_v = ((log_p if form == "policy" else log_r).exp() * (log_p - log_r)).sum(-1)
    want_logp = log_p.gather(-1, labels[:, None]).squeeze(-1)
    torch.testing.assert_close(stats.divergence.double(), want_v.detach() * active, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(stats.policy_logp.double(), want_logp.detach() * active, rtol=1e-5, atol=2e-5)
    kl = stats.divergence if form == "policy" else -stats.divergence
    assert (kl >= -1e-5).all()
    (stats.policy_logp.sum() - 2 * stats.divergence.sum()).backward()
    ((want_logp - 2 * want_v) * active).sum().backward()
    bound = 2e-5 if dtype == torch.float32 else 0.05
    error = (hidden.grad.double() - leaf.grad @ weight.double()).norm()
    assert error <= bound * (1 + (leaf.grad @ weight.double()).norm())


def test_inactive_tokens_cost_no_head_product() -> None:
    x = inputs()
    products = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket is torch.ops.sparsepo.token_stats:
                products.append(len(args[0]))
            return function(*args, **(kwargs or {}))

    active = torch.arange(N) % 3 == 0
    with Watch():
        stats = token_stats(**x, divergence="policy", active=active)
    assert products == [3] and stats.complete is False
    whole = token_stats(**x, divergence="policy")
    torch.testing.assert_close(stats.divergence, whole.divergence * active)


@pytest.mark.parametrize("form", [0, 1, 2])
def test_operator_passes_opcheck(form: int) -> None:
    x = inputs(torch.float32)
    arguments = (
        x["hidden"].requires_grad_(), x["head"].weight.requires_grad_(), x["head"].bias.requires_grad_(), x["labels"],
        x["reference_hidden"], *x["reference_head"], form, "eager", 3, 4,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.sparsepo.token_stats, arguments)


def test_torch_compile_gives_the_same() -> None:
    x = inputs(torch.float32)
    x["hidden"].requires_grad_()

    def loss(hidden: torch.Tensor) -> torch.Tensor:
        stats = token_stats(
            hidden, x["head"], x["labels"], x["reference_hidden"], x["reference_head"], divergence="policy"
        )
        return (stats.policy_logp + 2 * stats.divergence).sum()

    (want,) = torch.autograd.grad(loss(x["hidden"]), x["hidden"])
    (got,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(x["hidden"]), x["hidden"])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.full((N,), V)}, "labels span"),
        ({"labels": torch.full((N,), -1)}, "labels span"),
        ({"labels": torch.zeros(N)}, "int64"),
        ({"labels": torch.zeros(N + 1, dtype=torch.int64)}, "labels"),
        ({"hidden": torch.zeros(N, D + 1, dtype=torch.float64)}, "do not fit"),
        ({"hidden": torch.zeros(N, D)}, "float32"),
        ({"reference_hidden": None}, "go together"),
        ({"reference_hidden": None, "reference_head": None}, "needs reference_hidden"),
        ({"reference_head": Head(torch.zeros(V + 1, D_REF, dtype=torch.float64))}, "vocabulary"),
        ({"head": Head(torch.zeros(V, D, dtype=torch.float64), torch.zeros(V + 2, dtype=torch.float64))}, "bias"),
        ({"divergence": "both"}, "'both'"),
    ],
)
def test_wrong_input_is_refused_with_its_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_stats(**{"divergence": "policy", **inputs(), **change})


def test_peak_memory_stays_at_a_chunk() -> None:
    """No tensor of rows x vocabulary elements exists in forward or backward."""
    rows, vocabulary = 512, 4096
    hidden = torch.randn(rows, 8, requires_grad=True)
    weight = torch.randn(vocabulary, 8, requires_grad=True)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return result

    with Watch():
        stats = token_stats(
            hidden, Head(weight), torch.zeros(rows, dtype=torch.int64), hidden.detach(), Head(weight.detach()),
            divergence="policy", config=OpsConfig(chunk_bytes=2 * 32 * vocabulary * 4, keep_bytes=0),
        )  # fmt: skip
        (stats.policy_logp.sum() + stats.divergence.sum()).backward()
    assert largest <= 32 * vocabulary

"""token_stats: its numbers, its gradients, its operator and its refusals."""

from __future__ import annotations

import math

import pytest
import torch

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.errors import UserError
from sparsepo_dist.objectives.sparsepo import SparsePO
from sparsepo_dist.ops import AlphaDivergence, Divergence, Head, OpsConfig, token_stats
from tests.support.head import BACKENDS, D_REF, FORMS, D, N, V, backend_config, brute_divergence, inputs


def full_logits(hidden: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
    logits = hidden.double() @ head.weight.double().T
    logits = logits if head.bias is None else logits + head.bias.double()
    probs = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return probs, probs.log()


def expected(x: dict, form: Divergence) -> TokenStats:
    p, log_p = full_logits(x["hidden"], x["head"])
    _, log_r = full_logits(x["reference_hidden"], x["reference_head"])
    rows = torch.arange(len(x["labels"]))
    return TokenStats(
        log_p[rows, x["labels"]], log_r[rows, x["labels"]], brute_divergence(log_p, log_r, form),
        log_squares=p.square().sum(-1).log(),
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tile_bytes", [1, 2 * 3 * V * 8, 10**6])
def test_values_equal_full_logits(form: Divergence, bias: bool, tile_bytes: int) -> None:
    x = inputs(bias=bias)
    got, want = (
        token_stats(**x, divergence=form, squares=True, config=OpsConfig(tile_bytes=tile_bytes, keep_bytes=0)),
        expected(x, form),
    )
    for name in ("policy_logp", "reference_logp", "divergence", "log_squares"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keep_bytes", [0, 2 * 4 * V * 8, 10**6])
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck_of_hidden_weight_and_bias(form: Divergence, keep_bytes: int) -> None:
    x = inputs()
    wanted = [t.requires_grad_() for t in (x["hidden"], *x["head"][:2])]

    def run(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stats = token_stats(
            hidden, Head(weight, bias), x["labels"], x["reference_hidden"], x["reference_head"],
            divergence=form, config=OpsConfig(tile_bytes=2 * 3 * V * 8, keep_bytes=keep_bytes),
        )  # fmt: skip
        return stats.policy_logp, stats.divergence

    assert torch.autograd.gradcheck(run, wanted)


def test_gradcheck_without_reference() -> None:
    x = inputs(bias=False)
    weight, hidden = x["head"].weight.requires_grad_(), x["hidden"].requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: token_stats(h, Head(w), x["labels"]).policy_logp, [hidden, weight])


@pytest.mark.parametrize("divergence", FORMS)
def test_gradcheck_through_the_masked_sums(divergence: Divergence) -> None:
    """Hidden rows, head, bias and both masks, through SparsePO's sums per response, some tokens masked out."""
    x = inputs()
    sequence_id = torch.tensor([0, 0, 1, 1, 1, 0, 1])
    reward, kl = (torch.rand(N, generator=torch.Generator().manual_seed(s), dtype=torch.float64) + 0.1 for s in (3, 4))
    off = torch.tensor([False, True, False, False, True, False, False])
    objective = SparsePO(0.7, divergence, "learned", 0.01, 0.02)

    def run(hidden, weight, bias, reward, kl):
        # As ReLU masks are where they are 0: no gradient there.
        reward, kl = reward.masked_fill(off, 0.0), kl.masked_fill(off, 0.0)
        stats = token_stats(
            hidden, Head(weight, bias), x["labels"], x["reference_hidden"], x["reference_head"],
            divergence=divergence, active=(reward != 0) | (kl != 0), config=OpsConfig("eager", 2 * N * 4 * 8, 500),
        )  # fmt: skip
        return objective(stats, TokenMasks(reward, kl), Responses(sequence_id, 1)).losses

    wanted = [t.requires_grad_() for t in (x["hidden"], *x["head"][:2], reward, kl)]
    assert torch.autograd.gradcheck(run, wanted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keep_bytes", [0, 2 * 4 * V * 4, 10**6])
@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_gradients_are_within_1e_5_of_float64(backend: str, keep_bytes: int, form: Divergence) -> None:
    results = []
    for dtype in (torch.float64, torch.float32):
        x = inputs(torch.float32)
        hidden = x["hidden"].to(dtype).requires_grad_()
        weight = x["head"].weight.to(dtype).requires_grad_()
        bias = x["head"].bias.to(dtype)
        reference = Head(*(t.to(dtype) for t in x["reference_head"][:2]))
        stats = token_stats(
            hidden, Head(weight, bias), x["labels"], x["reference_hidden"].to(dtype), reference, divergence=form,
            config=backend_config("eager" if dtype == torch.float64 else backend, 2 * 3 * V * 4, keep_bytes),
        )  # fmt: skip
        (stats.policy_logp.sum() + 2 * stats.divergence.sum()).backward()
        results.append((hidden.grad.double(), weight.grad.double()))
    for wide, narrow in zip(*results, strict=True):
        assert (wide - narrow).norm() / wide.norm() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [None, *FORMS])
def test_squares_are_of_the_policy_and_change_nothing_else(
    backend: str, dtype: torch.dtype, form: Divergence | None
) -> None:
    """With and without a reference, in tiles that end within a vector, some rows inactive; without a gradient."""
    g = torch.Generator().manual_seed(2)
    hidden, weight, other = (torch.randn(n, D, generator=g).to(dtype) for n in (N, 151, 151))
    reference = (hidden, Head(other)) if form else (None, None)
    labels, active = torch.randint(151, (N,), generator=g), torch.arange(N) != 3
    config = backend_config(backend, 2 * 60 * N * 4)
    leaf = hidden.clone().requires_grad_()
    got, without = (
        token_stats(
            leaf, Head(weight), labels, *reference, divergence=form, active=active, squares=squares, config=config
        )
        for squares in (True, False)
    )
    want = (hidden @ weight.T).double().softmax(-1).square().sum(-1).log() * active
    torch.testing.assert_close(got.log_squares.double(), want, rtol=1e-5, atol=2e-6)
    assert not got.log_squares.requires_grad and without.log_squares is None
    for name in ("policy_logp", "reference_logp", "divergence"):
        a, b = getattr(got, name), getattr(without, name)
        assert a is b is None or torch.equal(a, b)


def test_an_alpha_divergence_nears_the_two_kls() -> None:
    x = inputs()
    policy, reference = (token_stats(**x, divergence=form).divergence for form in ("policy", "reference"))
    for alpha, want in ((1e-6, -reference), (1 - 1e-6, policy)):
        got = token_stats(**x, divergence=AlphaDivergence(alpha)).divergence
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_frozen_head_gets_no_gradient_and_hidden_still_does() -> None:
    x = inputs()
    x["hidden"].requires_grad_()
    token_stats(**x, divergence="policy").divergence.sum().backward()
    assert x["head"].weight.grad is None
    assert x["hidden"].grad.abs().sum() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_input_gives_what_contiguous_input_gives(backend: str) -> None:
    x = inputs(torch.float32)
    config = backend_config(backend)
    want = token_stats(**x, divergence="policy", config=config)
    strided = {
        "hidden": x["hidden"].repeat_interleave(2, 1)[:, ::2],
        "head": Head(x["head"].weight.t().contiguous().t(), x["head"].bias.repeat_interleave(2)[::2]),
        "labels": x["labels"].repeat_interleave(3)[::3],
        "reference_hidden": x["reference_hidden"].t().contiguous().t(),
        "reference_head": x["reference_head"],
    }
    assert not strided["hidden"].is_contiguous() and not strided["labels"].is_contiguous()
    got = token_stats(**strided, divergence="policy", config=config)
    for name in ("policy_logp", "reference_logp", "divergence"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name))


@pytest.mark.parametrize("form", [0, 1, 2, 3])
@pytest.mark.parametrize("backend", ["eager", "cpp"])
def test_operator_passes_opcheck(form: int, backend: str) -> None:
    x = inputs(torch.float32)
    arguments = (
        x["hidden"].requires_grad_(), x["head"].weight.requires_grad_(), x["head"].bias.requires_grad_(), x["labels"],
        x["reference_hidden"], *x["reference_head"][:2], form, 0.3, [1.0, math.inf, 0.5, 4.0], backend, 300, 400,
        form > 1,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.sparsepo.token_stats, arguments)


def test_compiled_graphs_refuse_labels_outside_the_vocabulary_too() -> None:
    x = inputs(torch.float32)
    compiled = torch.compile(
        lambda labels: token_stats(x["hidden"], x["head"], labels).policy_logp, fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(ValueError, match=r"labels span -100\.\.10, the vocabulary 0\.\.10"):
        compiled(torch.tensor([-100, 0, 1, 2, 3, 4, 10]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OpsConfig("CPP"), "'CPP' is not one of auto, eager, cpp, cuda"),
        (OpsConfig(tile_bytes=0), "tile_bytes: 0"),
        (OpsConfig(keep_bytes=-1), "keep_bytes: -1"),
        (OpsConfig(tile_bytes=1e6), "tile_bytes: 1000000.0"),
    ],
)
def test_wrong_configuration_is_refused_with_its_field(config: OpsConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        token_stats(**inputs(), divergence="policy", config=config)


def test_the_reference_is_known_to_need_no_gradient() -> None:
    x = inputs()
    x["hidden"].requires_grad_()
    stats = token_stats(**x, divergence="policy")
    assert stats.policy_logp.requires_grad and stats.divergence.requires_grad
    assert not stats.reference_logp.requires_grad


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
        ({"divergence": AlphaDivergence(1.0)}, "between 0 and 1"),
        ({"divergence": "kl"}, "'policy', 'reference', an AlphaDivergence or None, not 'kl'"),
        ({"hidden": torch.zeros(N, D + 1, dtype=torch.float64)}, "do not fit"),
        ({"hidden": torch.zeros(N, D)}, "float32"),
        ({"reference_hidden": None}, "go together"),
        ({"reference_hidden": None, "reference_head": None}, "needs reference_hidden"),
        ({"reference_head": Head(torch.zeros(V + 1, D_REF, dtype=torch.float64))}, "vocabulary"),
        ({"head": Head(torch.zeros(V, D, dtype=torch.float64), torch.zeros(V + 2, dtype=torch.float64))}, "bias"),
        ({"divergence": "both"}, "'both'"),
        ({"active": torch.ones(N + 1, dtype=torch.bool)}, r"active must be bool \[7\]"),
        ({"active": torch.tensor([0, 2, 4])}, r"active must be bool \[7\].*int64 \(3,\)"),
        ({"active": torch.ones(N)}, "active must be bool"),
        ({"active": torch.arange(N) > 0, "labels": torch.tensor([V, 0, 0, 0, 0, 0, 0])}, "labels span 0..11"),
        ({"reference_hidden": torch.zeros(N, D_REF), "reference_head": Head(torch.zeros(V, D_REF))}, "cast one"),
        ({"head": Head(torch.zeros(V, D, dtype=torch.float64), torch.zeros(V))}, "its bias torch.float32"),
        ({"head": Head(torch.zeros(V, D, dtype=torch.float64), torch.zeros(V, device="meta").double())}, "meta"),
        ({"hidden": torch.zeros(N, D, dtype=torch.int64), "head": Head(torch.zeros(V, D).long())}, "floating point"),
        ({"head": torch.zeros(V, D, dtype=torch.float64)}, "must be a Head"),
    ],
)
def test_wrong_input_is_refused_with_its_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_stats(**{"divergence": "policy", **inputs(), **change})

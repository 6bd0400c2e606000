"""The CUDA kernels on a GPU, against plain PyTorch there. Run under compute-sanitizer as CONTRIBUTING.md shows."""

from __future__ import annotations

import pytest
import torch

from sparsepo_dist.ops import AlphaDivergence, Divergence, Head, OpsConfig, token_stats

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.mark.parametrize("rows", [1, 7, 5000])
@pytest.mark.parametrize("vocabulary", [1, 1000, 50257, 262144])
@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize("form", [None, "policy", "reference", AlphaDivergence(0.3)])
def test_statistics_and_gradients_agree_with_plain_pytorch(
    rows: int, vocabulary: int, dtype: torch.dtype, form: Divergence | None
) -> None:
    if rows * vocabulary > 2**29:
        rows = 300  # enough for two tiles; eager needs many copies of one
    torch.manual_seed(0)
    hidden, ref_hidden = torch.randn(2, rows, 64, device="cuda").to(dtype)
    weight, ref_weight = (torch.randn(2, vocabulary, 64, device="cuda") / 4).to(dtype)
    labels = torch.randint(vocabulary, (rows,), device="cuda")
    factors = torch.randn(2, rows, device="cuda") * (torch.rand(2, rows, device="cuda") < 0.7)
    found = []
    for backend in ("cuda", "eager"):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        reference = (ref_hidden, Head(ref_weight)) if form else (None, None)
        config = OpsConfig(backend, tile_bytes=2**26, keep_bytes=2**27)
        stats = token_stats(h, Head(w), labels, *reference, divergence=form, squares=True, config=config)
        loss = (factors[0] * stats.policy_logp).sum()
        if form:
            loss = loss + (factors[1] * stats.divergence).sum()
        loss.backward()
        of_reference = (stats.reference_logp, stats.divergence) if form else ()
        found.append([stats.policy_logp, stats.log_squares, h.grad, w.grad, *of_reference])
    for got, want in zip(*found, strict=True):
        error = (got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-3)
        assert error < BOUNDS[dtype], f"{error:.2e}"

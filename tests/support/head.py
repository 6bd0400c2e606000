"""Inputs of the fused operation, and the backends that tests run it on."""

from __future__ import annotations

import pytest
import torch

from sparsepo_dist.ops import AlphaDivergence, Divergence, Head, OpsConfig
from sparsepo_dist.ops.bands import Model
from sparsepo_dist.ops.compiled import load_cpp

N, D, D_REF, V = 7, 5, 4, 11
FORMS: tuple[Divergence, ...] = ("policy", "reference", AlphaDivergence(0.3))


def brute_divergence(log_p: torch.Tensor, log_r: torch.Tensor, form: Divergence) -> torch.Tensor:
    """[n] of whole log-probabilities [n, V]: an entry of no probability counts nothing."""
    if isinstance(form, AlphaDivergence):
        a = form.alpha
        return (1 - (a * log_p + (1 - a) * log_r).exp().sum(-1)) / (a * (1 - a))
    weight = (log_p if form == "policy" else log_r).exp()
    return torch.where(weight > 0, weight * (log_p - log_r), 0.0).sum(-1)


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


BACKENDS = ("eager", "portable", "avx2", "avx512")
"""Plain PyTorch, and the C++ kernels of every instruction set."""


def backend_config(name: str, tile_bytes: int = 10**6, keep_bytes: int = 0) -> OpsConfig:
    """Run on the named kernels, or skip where the processor has none of them."""
    if name == "eager":
        return OpsConfig("eager", tile_bytes, keep_bytes)
    loaded = load_cpp()
    if not loaded.usable:
        pytest.skip(loaded.reason)
    try:
        torch.ops.sparsepo_kernels.use_instruction_set(name)
    except RuntimeError as error:
        pytest.skip(str(error).splitlines()[0])
    return OpsConfig("cpp", tile_bytes, keep_bytes)


def has_instruction_set(name: str) -> bool:
    try:
        backend_config(name)
    except pytest.skip.Exception:
        return False
    torch.ops.sparsepo_kernels.use_instruction_set("")
    return True


AVAILABLE = ["eager", *(name for name in BACKENDS[1:] if has_instruction_set(name))]


def count_products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A list that grows by (rows, width of a row) with every product of hidden rows and a head."""
    products: list[tuple[int, int]] = []
    inner = Model.products

    def of_rows(self: Model, rows: slice, entries: slice, out: torch.Tensor) -> torch.Tensor:
        products.append(tuple(self.hidden[rows].shape))
        return inner(self, rows, entries, out)

    monkeypatch.setattr(Model, "products", of_rows)
    return products

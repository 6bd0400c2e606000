"""The packed layouts' attention on a GPU: compiled, forward and backward, against an explicit softmax there."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.attention.blockwise import BLOCKWISE
from sparsepo_dist.engines.attention.flex import FLEX, Heads, flex_failure
from sparsepo_dist.engines.attention.reach import FULL, Reach
from sparsepo_dist.engines.attention.registration import Told
from sparsepo_dist.engines.attention.varlen import VARLEN, flash_attn_installed
from tests.engines.attention.packed_batches import random_pairs, seen, told

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 2**-6, torch.float16: 2**-9}
HEADS = [(12, 12, 64), (9, 3, 64), (16, 16, 80), (8, 1, 128)]
CASES: list[tuple[Layout, str, torch.dtype]] = [
    *((lay, name, dtype) for lay in ("prefix_shared", "packed") for name in (BLOCKWISE, FLEX) for dtype in BOUNDS),
    *(("packed", VARLEN, dtype) for dtype in (torch.bfloat16, torch.float16)),
]  # fmt: skip


def explicit(
    query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None = None, *, sees: Tensor, cap: float | None = None
) -> Tensor:
    """[1, T, H, d] in float64."""
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    scores = (scores if cap is None else cap * torch.tanh(scores / cap)).masked_fill(~sees, -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks[:, None, None].expand(1, -1, len(sees), 1)), -1)
    return (scores.softmax(-1)[..., : len(sees)] @ value).transpose(1, 2)


def on_gpu(seed: int, count: int, longest: int, layout: Layout) -> tuple[PackedBatch, Tensor]:
    pairs = random_pairs(seed, count, longest)
    return pack(pairs, [1.0] * count, layout, torch.device("cuda")), seen(pairs, layout).cuda()


def with_gradients(compute: Any, given: list[Tensor], upstream: Tensor) -> list[Tensor]:
    leaves = [states.clone().requires_grad_() for states in given]
    out = compute(*leaves)
    return [out, *torch.autograd.grad(out, leaves, upstream)]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(("layout", "name", "dtype"), CASES)
def test_values_and_gradients(layout: Layout, name: str, dtype: torch.dtype, heads: tuple[int, int, int]) -> None:
    if name == VARLEN and not flash_attn_installed():
        pytest.skip("needs flash-attn")
    function = ALL_ATTENTION_FUNCTIONS[name]
    queries, keys, width = heads
    for seed, count, longest in ((0, 6, 60), (1, 3, 300), (2, 4, 5)):
        batch, sees = on_gpu(seed, count, longest, layout)
        inputs = told(name, batch)

        def ours(*qkv: Tensor, inputs: Told = inputs) -> Tensor:
            return function(nn.Identity(), *qkv, FULL, attention_blocks=inputs)[0]

        torch.manual_seed(seed)
        given = [torch.randn(1, n, len(sees), width, device="cuda", dtype=dtype) for n in (queries, keys, keys)]
        upstream = torch.randn(1, len(sees), queries, width, device="cuda", dtype=dtype)
        found = with_gradients(ours, given, upstream)
        want = with_gradients(partial(explicit, sees=sees), [states.double() for states in given], upstream.double())
        for got, expected in zip(found, want, strict=True):
            error = (got.double() - expected).norm() / expected.norm()
            assert error < BOUNDS[dtype], f"{error:.2e}"


@pytest.mark.parametrize("name", [BLOCKWISE, FLEX])
@pytest.mark.parametrize("term", ["window", "sinks", "softcap"])
def test_terms_that_models_add(name: str, term: str) -> None:
    batch, _ = on_gpu(4, 4, 300, "prefix_shared")
    pairs = random_pairs(4, 4, 300)
    reach = Reach(window=100) if term == "window" else FULL
    sees = seen(pairs, "prefix_shared", window=reach.window).cuda()
    cap = 2.0 if term == "softcap" else None
    function, inputs = ALL_ATTENTION_FUNCTIONS[name], told(name, batch)

    def ours(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None = None) -> Tensor:
        extra = {"s_aux": sinks, "softcap": cap}
        return function(nn.Identity(), query, key, value, reach, attention_blocks=inputs, **extra)[0]

    torch.manual_seed(0)
    given = [torch.randn(1, n, len(sees), 64, device="cuda", dtype=torch.bfloat16) for n in (8, 2, 2)]
    given += [torch.randn(8, device="cuda", dtype=torch.bfloat16)] if term == "sinks" else []
    upstream = torch.randn(1, len(sees), 8, 64, device="cuda", dtype=torch.bfloat16)
    found = with_gradients(ours, given, upstream)
    want = with_gradients(partial(explicit, sees=sees, cap=cap), [part.double() for part in given], upstream.double())
    for got, expected in zip(found, want, strict=True):
        assert (got.double() - expected).norm() < BOUNDS[torch.bfloat16] * expected.norm()


def test_one_compilation_serves_every_length() -> None:
    shape = Heads(8, 2, 64)
    assert flex_failure(shape, torch.bfloat16, torch.device("cuda", 0)) is None
    function = ALL_ATTENTION_FUNCTIONS[FLEX]
    counted = torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    for seed, longest in enumerate((20, 90, 200, 400, 50)):
        batch, sees = on_gpu(seed, 4, longest, "prefix_shared")
        states = [
            torch.randn(1, n, len(sees), shape.width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            for n in (shape.queries, shape.keys, shape.keys)
        ]
        out, _ = function(nn.Identity(), *states, FULL, attention_blocks=told(FLEX, batch), scaling=None)
        out.float().sum().backward()
    assert counted["unique_graphs"] == before


def test_memory_does_not_grow_with_the_square_of_the_tokens() -> None:
    """A mask or scores of 16,384 x 16,384 would be 256 MiB at the least."""
    batch, sees = on_gpu(3, 40, 270, "prefix_shared")
    del sees
    tokens = len(batch.input_ids)
    states = [torch.randn(1, 4, tokens, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    function = ALL_ATTENTION_FUNCTIONS[FLEX]
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out, _ = function(nn.Identity(), *states, FULL, attention_blocks=told(FLEX, batch))
        out.float().sum().backward()
        del out
    assert torch.cuda.max_memory_allocated() - before < 20 * states[0].nbytes + 2**24 < tokens**2

"""Windows, chunks, sinks and soft caps in the packed layouts' attention functions, against an explicit softmax."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
import transformers
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, bidirectional_mask_function, or_masks
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.attention.blockwise import BLOCKWISE
from sparsepo_dist.engines.attention.flex import FLEX, block_mask
from sparsepo_dist.engines.attention.inputs import ATTENTION_INPUTS
from sparsepo_dist.engines.attention.reach import FULL, Reach
from sparsepo_dist.engines.attention.segments import SEGMENTS
from sparsepo_dist.engines.attention.spans import token_spans
from sparsepo_dist.engines.attention.terms import WITH_SINKS
from sparsepo_dist.engines.attention.varlen import VARLEN
from sparsepo_dist.errors import UserError
from tests.engines.attention import plain_flash
from tests.engines.attention.packed_batches import packed, random_pairs, seen, told

LAYOUTS: tuple[Layout, ...] = ("prefix_shared", "packed")
CASES = [*((layout, name) for layout in LAYOUTS for name in (SEGMENTS, BLOCKWISE, FLEX)), ("packed", VARLEN)]
PAIRS = [TokenizedPair((1,) * 9, (2,) * 7, (3,) * 12), *random_pairs(3, 2, 12)]
# Shorter than a response; as long as the first pair's prompt, and one token longer; longer than all.
REACHES = [
    *(Reach(window=window) for window in (1, 4, 9, 10, 500)), *(Reach(chunk=chunk) for chunk in (4, 9, 10))
]  # fmt: skip


@pytest.fixture(autouse=True)
def kernels_on_cpu(monkeypatch: pytest.MonkeyPatch) -> plain_flash.PlainFlash:
    """torch's dense stand-in for FlexAttention, not traced first, and a plain flash-attn."""
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    return plain_flash.installed(monkeypatch)


def explicit(
    query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, sees: Tensor, cap: float | None
) -> Tensor:  # fmt: skip
    """[1, T, H, d]: softmax over all scores of a head and its sink, what is not seen left out."""
    groups = query.shape[1] // key.shape[1]
    heads = []
    for head in range(query.shape[1]):
        scores = query[0, head] @ key[0, head // groups].T * 0.3
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        scores = scores.masked_fill(~sees, -torch.inf)
        if sinks is not None:
            scores = torch.cat((scores, sinks[head].expand(len(sees), 1)), 1)
        heads.append(scores.softmax(-1)[:, : len(sees)] @ value[0, head // groups])
    return torch.stack(heads, 1)[None]


def check_against_explicit(
    layout: Layout, name: str, *, reach: Reach = FULL, cap: float | None = None, sinks: bool = False
) -> None:
    """Output and gradients, of sinks too, in float64; grouped queries, values wider than keys."""
    batch, sees = packed(PAIRS, layout), seen(PAIRS, layout, window=reach.window, chunk=reach.chunk)
    torch.manual_seed(0)
    given = [torch.randn(1, heads, len(sees), width, dtype=torch.float64) for heads, width in ((6, 8), (2, 8), (2, 10))]
    given += [torch.randn(6, dtype=torch.float64)] if sinks else []
    upstream = torch.randn(1, len(sees), 6, 10, dtype=torch.float64)

    def run(compute: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [part.clone().requires_grad_() for part in given]
        out = compute(*leaves)
        return [out, *torch.autograd.grad(out, leaves, upstream)]

    def ours(query: Tensor, key: Tensor, value: Tensor, sink: Tensor | None = None) -> Tensor:
        out: Tensor = ALL_ATTENTION_FUNCTIONS[name](
            nn.Identity(), query, key, value, reach, attention_blocks=told(name, batch), scaling=0.3, softcap=cap,
            s_aux=sink,
        )[0]  # fmt: skip
        return out

    want = run(lambda query, key, value, sink=None: explicit(query, key, value, sink, sees, cap))
    for got, expected in zip(run(ours), want, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_windows_and_chunks_count_positions_of_a_sequence(layout: Layout, name: str) -> None:
    for reach in REACHES:
        check_against_explicit(layout, name, reach=reach)


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_a_soft_cap_bends_scores_before_the_softmax(layout: Layout, name: str) -> None:
    check_against_explicit(layout, name, cap=0.7)
    check_against_explicit(layout, name, cap=0.7, reach=Reach(window=10))


@pytest.mark.parametrize(("layout", "name"), [case for case in CASES if case[1] != VARLEN])
def test_sinks_take_part_in_every_softmax(layout: Layout, name: str) -> None:
    check_against_explicit(layout, name, sinks=True)
    check_against_explicit(layout, name, sinks=True, reach=Reach(window=10))
    check_against_explicit(layout, name, sinks=True, cap=0.7)


def test_flash_attention_refuses_sinks_and_names_what_has_them() -> None:
    with pytest.raises(UserError, match="no attention sinks; say --model.attention flex"):
        check_against_explicit("packed", VARLEN, sinks=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reach", [Reach(window=70), Reach(window=200), Reach(chunk=100)], ids=str)
@pytest.mark.parametrize("size", [(1, 7, 30), (2, 3, 150)])
def test_tiles_of_windows_are_those_that_torch_finds_by_looking_at_every_pair_of_tokens(
    layout: Layout, reach: Reach, size: tuple[int, int, int]
) -> None:
    pairs = random_pairs(*size)
    sees = seen(pairs, layout, window=reach.window, chunk=reach.chunk)
    batch = packed(pairs, layout)
    position = torch.arange(len(sees))
    assert torch.equal(token_spans(batch, reach).see(position[:, None], position), sees)
    found = block_mask(token_spans(batch, reach))
    length = found.seq_lengths[0]
    everywhere = torch.eye(length, dtype=torch.bool)
    everywhere[: len(sees), : len(sees)] = sees
    want = create_block_mask(lambda b, h, q, k: everywhere[q, k], None, None, length, length, device="cpu")
    assert torch.equal(found.to_dense(), want.to_dense())
    assert torch.equal(found.full_kv_num_blocks, want.full_kv_num_blocks)


def test_what_a_layer_is_told_is_made_once_for_each_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setitem(ATTENTION_INPUTS, SEGMENTS, lambda batch, reach: made.append(reach) or {})
    inputs = told(SEGMENTS, packed(PAIRS[:1], "packed"))
    for reach in (FULL, Reach(window=4), Reach(window=4), Reach(window=20), Reach(chunk=20), Reach(chunk=4)):
        inputs.of(reach)
    assert made == [FULL, Reach(window=4), Reach(chunk=4)]  # no sequence has more than 20 tokens


@pytest.mark.parametrize("name", list(ATTENTION_INPUTS))
@pytest.mark.parametrize(("argument", "value"), [("indices", torch.zeros(2)), ("is_causal", False), ("bias_of", 1)])
def test_arguments_that_are_not_known_are_refused_by_name(name: str, argument: str, value: Any) -> None:
    batch = packed(PAIRS, "packed")
    states = torch.randn(1, 2, len(batch.input_ids), 8)
    call, given = ALL_ATTENTION_FUNCTIONS[name], {"attention_blocks": told(name, batch), "sliding_window": 4}
    with pytest.raises(UserError, match=f"{argument}.*--data.layout padded"):
        call(nn.Identity(), states, states, states, FULL, **given, **{argument: value})
    call(nn.Identity(), states, states, states, FULL, **given, **{argument: None})
    for mask, said in ((None, "does not hand on"), (torch.zeros(1, 1, 4, 4), "mask of its own")):
        with pytest.raises(UserError, match=f"{said}.*--data.layout padded"):
            call(nn.Identity(), states, states, states, mask, **given)


@pytest.mark.parametrize("name", list(ATTENTION_INPUTS))
def test_keys_that_are_not_those_of_the_tokens_are_refused(name: str) -> None:
    """As DeepSeek-V4 has them, behind the others and compressed."""
    batch = packed(PAIRS, "packed")
    states = torch.randn(1, 2, len(batch.input_ids), 8)
    more = torch.cat((states, states[:, :, :3]), 2)
    with pytest.raises(UserError, match="other keys than those of its tokens.*--data.layout padded"):
        ALL_ATTENTION_FUNCTIONS[name](nn.Identity(), states, more, more, FULL, attention_blocks=told(name, batch))


def test_masks_that_are_neither_causal_nor_windows_nor_chunks_are_refused() -> None:
    asked = ALL_MASK_ATTENTION_FUNCTIONS[SEGMENTS]
    for other in (bidirectional_mask_function, or_masks(bidirectional_mask_function)):
        with pytest.raises(UserError, match="--data.layout padded"):
            asked(mask_function=other, local_size=None)
    for compute in (lambda mask: mask.dtype, lambda mask: mask[:, 0]):
        with pytest.raises(UserError, match="computes with its attention mask.*--data.layout padded"):
            compute(Reach(window=3))


def test_families_with_sinks_are_known_by_what_their_attention_is_called_with() -> None:
    """flash-attn must not be chosen for them: they would train after a refusal only."""
    modules = Path(inspect.getfile(transformers)).parent.glob("models/*/modeling_*.py")
    found = {path.parent.name for path in modules if "s_aux=" in path.read_text(encoding="utf-8")}
    assert found - {"openai_privacy_filter"} == WITH_SINKS  # a classifier

"""The packed layouts' attention functions against an explicit softmax, and against each other in whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsepo_dist.contracts import PackedBatch, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.attention.blockwise import BLOCKWISE, blockwise_inputs
from sparsepo_dist.engines.attention.flex import FEWEST_TILES, FLEX, TILE, block_mask
from sparsepo_dist.engines.attention.inputs import dense_mask
from sparsepo_dist.engines.attention.reach import FULL
from sparsepo_dist.engines.attention.segments import SEGMENTS, segment_inputs
from sparsepo_dist.engines.attention.spans import token_spans
from sparsepo_dist.engines.attention.varlen import VARLEN, varlen_inputs
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.masks import hooks
from tests.engines.attention import plain_flash
from tests.engines.attention.packed_batches import packed, random_pairs, seen, told
from tests.support.tiny import CONFIGS, save_tiny_model

LAYOUTS: tuple[Layout, ...] = ("prefix_shared", "packed")
SIZES = [(0, 1, 4), (1, 7, 30), (2, 3, 150), (3, 40, 12), (4, 5, 1), (5, 2, 400)]  # seed, pairs, longest part


@pytest.fixture
def flex_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's dense stand-in for the kernel, with a gradient: not traced first, which takes seconds a length."""
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> plain_flash.PlainFlash:
    return plain_flash.installed(monkeypatch)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_tokens_see_their_own_sequence_up_to_themselves(layout: Layout, size: tuple[int, int, int]) -> None:
    pairs = random_pairs(*size)
    batch, want = packed(pairs, layout), seen(pairs, layout)
    position = torch.arange(len(want))
    assert torch.equal(token_spans(batch).see(position[:, None], position), want)
    assert torch.equal(dense_mask(batch, torch.float32)[0, 0] == 0, want)
    inputs = blockwise_inputs(batch)
    assert (inputs["mask"] is None) == (layout == "packed")
    if inputs["mask"] is not None:
        slots = inputs["gather_index"].shape[1]
        block, slot = inputs["scatter_index"] // slots, inputs["scatter_index"] % slots
        in_blocks = inputs["mask"][block[:, None], 0, slot[:, None], slot] & (block[:, None] == block)
        assert torch.equal(in_blocks, want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_those_that_torch_finds_by_looking_at_every_pair_of_tokens(
    layout: Layout, size: tuple[int, int, int]
) -> None:
    pairs = random_pairs(*size)
    found, sees = block_mask(token_spans(packed(pairs, layout))), seen(pairs, layout)
    length = found.seq_lengths[0]
    assert length % TILE == 0 and length >= FEWEST_TILES * TILE and length - len(sees) >= 0
    everywhere = torch.eye(length, dtype=torch.bool)
    everywhere[: len(sees), : len(sees)] = sees
    want = create_block_mask(lambda b, h, q, k: everywhere[q, k], None, None, length, length, device="cpu")
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(found, name), getattr(want, name)), name
        indices = name.replace("num_blocks", "indices")
        for row, count in enumerate(getattr(want, name)[0, 0].tolist()):
            mine, theirs = (getattr(mask, indices)[0, 0, row, :count].sort().values for mask in (found, want))
            assert torch.equal(mine, theirs), indices


def test_tiles_of_chosen_tokens_are_skipped_for_rejected_ones() -> None:
    """Where both responses are long, that is the larger part of what a pair of sequences would share."""
    pair = TokenizedPair((1,) * TILE, (2,) * (2 * TILE + 1), (3,) * (2 * TILE + 1))
    mask = block_mask(token_spans(packed([pair], "prefix_shared")))
    tiles = mask.kv_num_blocks[0, 0] + mask.full_kv_num_blocks[0, 0]
    assert tiles.tolist() == [1, 2, 3, 2, 3]  # prompt; chosen; rejected: the prompt's tile and its own


def test_starts_are_cumulative_lengths() -> None:
    pairs = random_pairs(6, 5, 9)
    starts = varlen_inputs(packed(pairs, "packed"))["starts"].tolist()
    lengths = [len(p.prompt_ids) + len(ids) - 1 for p in pairs for ids in (p.chosen_ids, p.rejected_ids) if ids]
    assert starts == [sum(lengths[:n]) for n in range(len(lengths) + 1)]


def explicit(query: Tensor, key: Tensor, value: Tensor, sees: Tensor, scale: float) -> Tensor:
    """[1, T, H, d]: softmax over all scores of a head, what is not seen left out."""
    groups = query.shape[1] // key.shape[1]
    heads = []
    for head in range(query.shape[1]):
        scores = query[0, head] @ key[0, head // groups].T * scale
        heads.append(scores.masked_fill(~sees, -torch.inf).softmax(-1) @ value[0, head // groups])
    return torch.stack(heads, 1)[None]


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize(
    ("layout", "name"),
    [*((layout, name) for layout in LAYOUTS for name in (SEGMENTS, FLEX)), ("packed", VARLEN)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("flex_on_cpu", "flash")
def test_values_and_gradients(layout: Layout, name: str, heads: tuple[int, int], dtype: torch.dtype) -> None:
    pairs = random_pairs(7, 4, 60)
    batch, sees = packed(pairs, layout), seen(pairs, layout)
    torch.manual_seed(0)
    given = [torch.randn(1, count, len(sees), 8, dtype=dtype) for count in (heads[0], heads[1], heads[1])]
    upstream = torch.randn(1, len(sees), heads[0], 8, dtype=dtype)

    def run(function: Any) -> list[Tensor]:
        inputs = [states.clone().requires_grad_() for states in given]
        out = function(*inputs)
        return [out, *torch.autograd.grad(out, inputs, upstream)]

    def ours(attention: str) -> list[Tensor]:
        function, inputs = ALL_ATTENTION_FUNCTIONS[attention], told(attention, batch)
        return run(lambda *qkv: function(nn.Identity(), *qkv, FULL, attention_blocks=inputs, scaling=0.3)[0])

    want = run(lambda *qkv: explicit(*qkv, sees, 0.3))
    for found in (ours(name), ours(BLOCKWISE)):
        for got, expected in zip(found, want, strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("family", sorted(set(CONFIGS) - {"gptj"}))
@pytest.mark.usefixtures("flex_on_cpu", "flash")
def test_whole_models_give_the_same_hidden_rows_and_gradients(family: str, tmp_path: Path) -> None:
    folder, pairs = save_tiny_model(tmp_path, family), random_pairs(8, 4, 40)
    results: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
    for layout in LAYOUTS:
        model = load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout=layout, zero3=None)
        for name in (SEGMENTS, BLOCKWISE, FLEX, *([VARLEN] if layout == "packed" else [])):
            model.config._attn_implementation = name
            model.zero_grad()
            hidden = hidden_at(backbone(model), packed(pairs, layout))
            hidden.square().sum().backward()
            gradient = torch.cat([p.grad.flatten() for p in backbone(model).parameters()])
            results[layout, name] = (hidden.detach(), gradient)
    want = results["packed", BLOCKWISE]
    for case, found in results.items():
        for got, expected in zip(found, want, strict=True):
            assert (got - expected).norm() < 1e-5 * expected.norm(), case


@pytest.mark.slow
@torch.no_grad()
def test_one_graph_serves_every_length_but_the_first_one_met() -> None:
    """Counted before code is generated, which does not depend on the device."""
    counted = torch._dynamo.utils.counters["stats"]
    counted.clear()
    compiled = torch.compile(torch_flex.flex_attention, fullgraph=True, backend="aot_eager")
    graphs = []
    for seed, longest in enumerate((100, 150, 5, 60, 90, 130)):
        mask = block_mask(token_spans(packed(random_pairs(seed, 3, longest), "prefix_shared")))
        query, key, value = (torch.randn(1, heads, mask.seq_lengths[0], 16) for heads in (6, 2, 2))
        compiled(query, key, value, block_mask=mask, scale=0.25, enable_gqa=True)
        graphs.append(counted["unique_graphs"])
    assert graphs[-1] == 2


@pytest.mark.usefixtures("flex_on_cpu")
def test_recorders_of_masks_see_queries_and_keys_of_real_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen_by = nn.Identity(), []
    monkeypatch.setitem(hooks._attention_recorders, module, lambda query, key: seen_by.append((query, key)))
    batch = packed(random_pairs(9, 2, 9), "prefix_shared")
    tokens = len(batch.input_ids)
    query, key, value = torch.randn(3, 1, 2, tokens, 8)
    ALL_ATTENTION_FUNCTIONS[FLEX](module, query, key, value, FULL, attention_blocks=told(FLEX, batch))
    assert torch.equal(seen_by[0][0], query) and torch.equal(seen_by[0][1], key)


def test_flash_attention_is_called_as_its_interface_wants(flash: plain_flash.PlainFlash) -> None:
    pairs = random_pairs(10, 3, 20)
    batch = packed(pairs, "packed")
    tokens = len(batch.input_ids)
    query, key, value = torch.randn(1, 6, tokens, 8), torch.randn(1, 2, tokens, 8), torch.randn(1, 2, tokens, 8)
    function, inputs = ALL_ATTENTION_FUNCTIONS[VARLEN], told(VARLEN, batch)
    out, _ = function(nn.Identity(), query, key, value, FULL, attention_blocks=inputs, scaling=0.5, dropout=0.1)
    assert out.shape == (1, tokens, 6, 8)
    (call,) = flash.calls
    assert [tuple(call[name].shape) for name in ("q", "k", "v")] == [(tokens, 6, 8), (tokens, 2, 8), (tokens, 2, 8)]
    starts = call["cu_seqlens_q"]
    assert starts.dtype == torch.int32 and starts[0] == 0 and starts[-1] == tokens
    assert torch.equal(starts, call["cu_seqlens_k"])
    longest = int(starts.diff().max())
    assert (call["max_seqlen_q"], call["max_seqlen_k"]) == (longest, longest)
    assert call["causal"] is True and call["softmax_scale"] == 0.5 and call["dropout_p"] == 0.1


def test_masks_are_made_on_the_batch_s_device() -> None:
    """They would be most of what is sent there."""
    batch: PackedBatch = pack(random_pairs(12, 3, 9), [1.0] * 3, "prefix_shared", torch.device("meta"))
    assert blockwise_inputs(batch)["mask"].device.type == "meta"
    assert {mask.device.type for mask in segment_inputs(batch)["masks"] if mask is not None} == {"meta"}

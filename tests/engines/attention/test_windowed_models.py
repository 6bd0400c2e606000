"""Models whose attention is more than causal, whole, in every layout: against transformers, one sequence at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GptOssConfig,
    Llama4TextConfig,
    MistralConfig,
    MptConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.attention.blockwise import BLOCKWISE
from sparsepo_dist.engines.attention.flex import FLEX
from sparsepo_dist.engines.attention.inputs import ATTENTION_INPUTS, model_inputs
from sparsepo_dist.engines.attention.segments import SEGMENTS
from sparsepo_dist.engines.attention.varlen import VARLEN
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.errors import UserError
from tests.engines.attention import plain_flash

_SHAPE: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
_BOTH = ["sliding_attention", "full_attention"]
# Windows and chunks of 6: shorter than the prompts, and one response begins just inside one.
MODELS: dict[str, PretrainedConfig] = {
    "mistral": MistralConfig(**_SHAPE, sliding_window=6),
    "qwen3": Qwen3Config(**_SHAPE, sliding_window=6, use_sliding_window=True, max_window_layers=1),
    "gemma2": Gemma2Config(
        **_SHAPE, sliding_window=6, layer_types=_BOTH, attn_logit_softcapping=0.5, query_pre_attn_scalar=8
    ),
    "gpt_oss": GptOssConfig(
        **_SHAPE, sliding_window=6, layer_types=_BOTH, num_local_experts=2, num_experts_per_tok=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
    "llama4": Llama4TextConfig(
        **_SHAPE, attention_chunk_size=6, layer_types=["chunked_attention", "full_attention"], intermediate_size_mlp=48,
        num_local_experts=2, num_experts_per_tok=1,
    ),
    "falcon": FalconConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True),
    "bloom": BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4),
    "mpt": MptConfig(vocab_size=96, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
}  # fmt: skip
LAYOUTS: tuple[Layout, ...] = ("padded", "packed", "prefix_shared")


def ids(first: int, count: int) -> tuple[int, ...]:
    return tuple(3 + (first * 17 + number * number * 7) % 90 for number in range(count))


PAIRS = [
    TokenizedPair(ids(1, 9), ids(2, 8), ids(3, 11)),
    TokenizedPair(ids(4, 6), ids(5, 2), ids(6, 9)),
    TokenizedPair(ids(7, 2), ids(8, 13), ids(9, 1)),
]


@pytest.fixture(autouse=True)
def kernels_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's dense stand-in for FlexAttention, not traced first, and a plain flash-attn."""
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    plain_flash.installed(monkeypatch)


def tiny(name: str, **changed: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    own = "sdpa" if name in ("mistral", "qwen3", "llama4", "falcon") else "eager"
    config = type(MODELS[name]).from_dict({**MODELS[name].to_dict(), **changed})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=own).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) / 3)
    return model


def body(model: PreTrainedModel) -> PreTrainedModel:
    """The model under the head; Llama 4's text class names none as transformers has it."""
    return model.model if isinstance(model.config, Llama4TextConfig) else model.base_model


def plain(base: PreTrainedModel) -> Tensor:
    """[N, D], transformers alone."""
    rows = []
    for pair in PAIRS:
        for response in (pair.chosen_ids, pair.rejected_ids):
            whole = torch.tensor([[*pair.prompt_ids, *response]])
            hidden = base(input_ids=whole, use_cache=False).last_hidden_state[0]
            rows.append(hidden[len(pair.prompt_ids) - 1 : -1])
    return torch.cat(rows)


def with_gradients(base: PreTrainedModel, hidden: Tensor) -> list[Tensor]:
    """Hidden rows, and the gradients of every parameter for one and the same upstream gradient."""
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(hidden, list(base.parameters()), upstream, allow_unused=True)
    return [hidden.detach(), *(gradient for gradient in gradients if gradient is not None)]


def paths(model: PreTrainedModel) -> Iterator[tuple[Layout, str]]:
    own = model.config._attn_implementation
    for layout in LAYOUTS:
        if layout == "padded" or not model._supports_attention_backend:
            yield layout, own
            continue
        sinks = model.config.model_type == "gpt_oss"
        yield from ((layout, name) for name in ATTENTION_INPUTS if name != VARLEN or (layout == "packed" and not sinks))


@pytest.mark.parametrize("name", MODELS)
def test_every_path_gives_the_rows_and_gradients_of_transformers(name: str) -> None:
    model = tiny(name)
    base = body(model)
    want = with_gradients(base, plain(base))
    tried = list(paths(model))
    for layout, attention in tried:
        model.config._attn_implementation = attention
        found = with_gradients(base, hidden_at(base, pack(PAIRS, [1.0] * len(PAIRS), layout)))
        assert len(found) == len(want)
        for got, expected in zip(found, want, strict=True):
            assert (got - expected).norm() < 1e-5 * expected.norm() + 1e-6, (layout, attention)
    if model._supports_attention_backend:
        assert {attention for _, attention in tried} >= {SEGMENTS, BLOCKWISE, FLEX}


@pytest.mark.parametrize(
    ("name", "term", "off"),
    [
        ("mistral", "sliding_window", 64), ("qwen3", "sliding_window", 64), ("gemma2", "sliding_window", 64),
        ("gemma2", "attn_logit_softcapping", 1e4), ("gpt_oss", "sliding_window", 64), ("gpt_oss", "sinks", -50.0),
        ("llama4", "attention_chunk_size", 64),
    ],
)  # fmt: skip
@torch.no_grad()
def test_what_is_added_shows_in_these_models(name: str, term: str, off: Any) -> None:
    """Else the test above would not see it left out."""
    without = tiny(name, **({} if term == "sinks" else {term: off}))
    if term == "sinks":
        for module in without.modules():
            if hasattr(module, "sinks"):
                module.sinks.fill_(off)
    want, got = plain(body(tiny(name))), plain(body(without))
    assert (got - want).norm() > 1e-3 * want.norm()


def test_a_window_is_not_left_out_of_a_dense_mask() -> None:
    """Models that take one hand it to all of their layers."""
    config = FalconConfig(sliding_window=6)
    config._attn_implementation = "eager"
    with pytest.raises(UserError, match="19 tokens is longer than the sliding_window of 6.*--data.layout padded"):
        model_inputs(pack(PAIRS, [1.0] * len(PAIRS), "packed"), config, torch.float32)


@pytest.mark.parametrize("name", ["bloom", "mpt"])
def test_models_without_position_ids_are_loaded_where_alibi_stands_for_them(name: str, tmp_path: Path) -> None:
    tiny(name).save_pretrained(tmp_path)
    config = load_config(str(tmp_path))
    model = load_model(str(tmp_path), config, dtype=torch.float32, layout="prefix_shared", zero3=None).eval()
    got = hidden_at(backbone(model), pack(PAIRS, [1.0] * len(PAIRS), "prefix_shared"))
    torch.testing.assert_close(got, plain(tiny(name).base_model), rtol=1e-4, atol=1e-5)

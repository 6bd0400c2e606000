"""Activations without data against the same decoder run for real."""

from __future__ import annotations

import pytest
import torch
from transformers import Lfm2Config, PretrainedConfig, PreTrainedModel, RecurrentGemmaConfig

from sparsepo_dist.contracts import PackedBatch, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.activation_checkpointing import checkpoint_activations
from sparsepo_dist.engines.attention import choice
from sparsepo_dist.engines.composite import auto_class
from sparsepo_dist.engines.config import Checkpointing
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.loading import attention_for
from sparsepo_dist.errors import UserError
from sparsepo_dist.plan.asked.request import Device
from sparsepo_dist.plan.asked.shapes import PairShape, batch_of
from sparsepo_dist.plan.model.activations import Activations, activations, scoring_peak
from sparsepo_dist.plan.model.decoder import SMALL_VOCABULARY, Decoder
from sparsepo_dist.plan.model.tracker import LiveBytes
from tests.support.composites import COMPOSITES
from tests.support.tiny import CONFIGS, tiny_config

PAIRS = [PairShape(20, 12, 2)] * 3


def decoder(family: str, *, layers: int, checkpointing: Checkpointing, dtype: torch.dtype = torch.float32) -> Decoder:
    tiny = tiny_config(family)
    # Types of layers are given layer by layer; None is worked out again.
    values = {**tiny.to_dict(), tiny.attribute_map.get("num_hidden_layers", "num_hidden_layers"): layers}
    values |= {name: 0.0 for name, value in values.items() if "drop" in name and isinstance(value, float)}
    config = type(tiny).from_dict({**values, "layer_types": None, "vocab_size": SMALL_VOCABULARY})
    return of(config, "prefix_shared", checkpointing=checkpointing, dtype=dtype)


def of(
    config: PretrainedConfig,
    layout: Layout,
    *,
    checkpointing: Checkpointing = False,
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    return Decoder(
        config, dtype, batch_of(PAIRS, layout), adapter=None, checkpointing=checkpointing, dropout=False,
        linears_keep_input=False, trust_remote_code=False,
    )  # fmt: skip


def real_model(planned: Decoder) -> PreTrainedModel:
    """The whole decoder with its weights."""
    attention = attention_for(planned.config, planned.shape.layout, planned.dtype)
    model: PreTrainedModel = auto_class(planned.config).from_config(
        planned.config, dtype=planned.dtype, attn_implementation=attention
    )
    checkpoint_activations(model, planned.checkpointing)
    return model.train()


def real_batch(layout: Layout) -> PackedBatch:
    """A batch of PAIRS."""
    pairs = [TokenizedPair((1,) * s.prompt, (2,) * s.response, (3,) * s.response) for s in PAIRS]
    return pack(pairs, [1.0] * len(pairs), layout)


def run_for_real(planned: Decoder) -> tuple[int, Activations]:
    """The whole decoder with a batch, its gradients thrown away as they come."""
    model, batch = real_model(planned), real_batch(planned.shape.layout)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    base = backbone(model)
    tensors = [
        v for part in (batch, batch.attention) if part for v in vars(part).values() if isinstance(v, torch.Tensor)
    ]
    with LiveBytes([*model.parameters(), *model.buffers(), *tensors]) as seen:
        with torch.no_grad():
            hidden_at(base, batch)
        scoring = seen.peak
        seen.mark()
        hidden = hidden_at(base, batch)
        kept, forward = seen.live, seen.peak
        seen.mark()
        hidden.backward(torch.ones_like(hidden))
        return scoring, Activations(kept, forward, seen.peak, 0)


@pytest.mark.parametrize("checkpointing", [False, True, "selective"])
@pytest.mark.parametrize("family", CONFIGS)
def test_predicted_is_what_a_real_run_keeps(family: str, checkpointing: Checkpointing) -> None:
    planned = decoder(family, layers=5, checkpointing=checkpointing)
    found, (scoring, real) = activations(planned), run_for_real(planned)
    assert scoring_peak(planned) == pytest.approx(scoring, rel=0.03)
    for name in ("kept", "forward", "backward"):
        assert getattr(found, name) == pytest.approx(getattr(real, name), rel=0.03), name


UNLIKE: dict[str, tuple[PretrainedConfig, Layout]] = {
    "composite": (COMPOSITES["gemma3"](), "prefix_shared"),
    "hybrid": (
        Lfm2Config(
            vocab_size=SMALL_VOCABULARY, hidden_size=32, num_hidden_layers=6, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=64, layer_types=["conv", "conv", "full_attention"] * 2,
        ),
        "padded",
    ),
    "composite hybrid": (COMPOSITES["qwen3_5"](), "padded"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNLIKE)
def test_predicted_is_what_a_real_run_keeps_where_blocks_or_parts_differ(name: str) -> None:
    planned = of(*UNLIKE[name])
    found, (scoring, real) = activations(planned), run_for_real(planned)
    assert scoring_peak(planned) == pytest.approx(scoring, rel=0.03)
    for moment in ("kept", "forward", "backward"):
        assert getattr(found, moment) == pytest.approx(getattr(real, moment), rel=0.03), moment
    assert 0 < found.last < found.backward


def test_layers_that_are_computed_token_by_token_are_refused() -> None:
    config = RecurrentGemmaConfig(
        vocab_size=SMALL_VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1,
        intermediate_size=64, lru_width=32,
    )  # fmt: skip
    with pytest.raises(UserError, match="plan: a recurrent_gemma model has layers that are computed token by token"):
        activations(of(config, "padded"))


def test_cost_grows_by_the_same_for_each_block() -> None:
    kept = [activations(decoder("llama", layers=n, checkpointing=False)).kept for n in (2, 3, 6)]
    assert kept[2] - kept[1] == 3 * (kept[1] - kept[0]) > 0


@pytest.mark.parametrize("family", CONFIGS)
def test_half_the_bytes_in_bfloat16_or_a_little_more(family: str) -> None:
    wide, narrow = (
        activations(decoder(family, layers=4, checkpointing=False, dtype=dtype)).kept
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert 0.5 * wide <= narrow < wide


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_long_pair_among_short_ones_costs_no_more_than_its_tokens(device: Device) -> None:
    """Block by block, all would be padded to it and carry a mask of its length."""
    short, long = PairShape(20, 12, 2), PairShape(81, 162, 2)
    even, uneven = [short] * 19, [short] * 9 + [long]
    shapes = {name: batch_of(pairs, "prefix_shared", device) for name, pairs in (("even", even), ("uneven", uneven))}
    tokens = shapes["even"].tokens
    assert shapes["uneven"].tokens == pytest.approx(tokens, abs=20) and shapes["uneven"].slots == 403
    planned = decoder("gemma", layers=3, checkpointing=False)
    for wanted in ("auto", "blockwise"):
        found = {n: activations(planned._replace(shape=s, attention=wanted)).kept for n, s in shapes.items()}
        grows = found["uneven"] / found["even"]
        assert grows == pytest.approx(1, abs=0.05) if wanted == "auto" else grows > 1.5


@pytest.mark.parametrize("family", ["gemma", "gpt2"])
def test_on_gpus_attention_keeps_its_inputs_its_output_and_a_number_for_each_row(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as the CPU's fused kernel keeps of a single causal block, which needs no mask either."""
    monkeypatch.setattr(choice, "_FLEX_NARROWEST", 8)
    planned = decoder(family, layers=3, checkpointing=False)
    one = [PairShape(128, 129, 1)]
    flex, fused = (activations(planned._replace(shape=batch_of(one, "packed", device))) for device in ("cuda", "cpu"))
    assert flex.kept == pytest.approx(fused.kept, rel=0.05)


def test_tracker_counts_storages_once_and_forgets_freed_ones() -> None:
    before = torch.zeros(100)
    with LiveBytes([before]) as seen:
        kept = torch.zeros(10)
        views = (kept[:5], before[:5])
        assert seen.live == seen.peak == 40
        torch.zeros(20)
        assert seen.live == 40 and seen.peak == 120
        seen.mark()
        assert seen.peak == 40
        del kept, views
        assert seen.live == 0

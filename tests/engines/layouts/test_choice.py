"""Which layout a run gets, by its models and its lengths."""

from __future__ import annotations

import pytest
import transformers as hf
from transformers import AutoModelForCausalLM, PretrainedConfig

from sparsepo_dist.engines.layouts.choice import ModelKind, layout_of
from sparsepo_dist.errors import UserError
from tests.support.hybrids import CONFIGS
from tests.support.tiny import tiny_config

LONGROPE = hf.Phi3Config(
    hidden_size=32, num_attention_heads=4, max_position_embeddings=256, original_max_position_embeddings=64,
    rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
)  # fmt: skip
# model -> what is right for 64 tokens, and for 65
RIGHT = {
    "llama": (tiny_config("llama"), "prefix_shared", "prefix_shared"),
    "lfm2": (CONFIGS["lfm2"](), "prefix_shared", "prefix_shared"),
    "mamba": (CONFIGS["mamba"](), "prefix_shared", "prefix_shared"),
    "phi3": (LONGROPE, "prefix_shared", "packed"),
    "gpt_neo": (hf.GPTNeoConfig(), "padded", "padded"),
    "deepseek_v4": (hf.DeepseekV4Config(), "padded", "padded"),
    "qwen4_exp_text": (hf.Qwen4ExpTextConfig(), "padded", "padded"),
}  # fmt: skip


def kind(config: PretrainedConfig) -> ModelKind:
    return ModelKind(config, AutoModelForCausalLM._model_mapping[type(config)])


@pytest.mark.parametrize("family", RIGHT)
def test_auto_takes_the_cheapest_that_is_right(family: str) -> None:
    config, short, long = RIGHT[family]
    for length, layout in ((64, short), (65, long)):
        chosen = layout_of("auto", {"model.path": kind(config)}, length)
        assert chosen.layout == layout
        assert (chosen.why is None) == (layout == "prefix_shared")
        assert chosen.why is None or f"{family} model (model.path)" in chosen.why


def test_what_no_layout_computes_is_refused() -> None:
    models = {"model.path": kind(hf.DogeConfig(keep_window_size=64))}
    assert layout_of("auto", models, 64).layout == "padded"
    for layout in ("auto", "padded"):
        with pytest.raises(
            UserError, match=r"none is right: of a doge model .* beyond 64 tokens, and data.max_length is 65"
        ):
            layout_of(layout, models, 65)


def test_a_layout_that_a_model_is_wrong_in_is_refused_by_name() -> None:
    models = {"model.path": kind(tiny_config("llama")), "reference.path": kind(LONGROPE)}
    assert layout_of("prefix_shared", models, 64).layout == "prefix_shared"
    assert layout_of("packed", models, 65) == ("packed", None)
    with pytest.raises(UserError, match=r"prefix_shared: of a phi3 model \(reference.path\), .*Right is packed or pad"):
        layout_of("prefix_shared", models, 65)


def test_a_family_that_nothing_is_known_of_is_padded_if_it_may_carry_a_state() -> None:
    stateful = type("New", (hf.LlamaForCausalLM,), {"_is_stateful": True})
    convolving = hf.LlamaConfig(num_hidden_layers=2, layer_types=["conv", "full_attention"])
    for config, made_by, why in (
        (hf.LlamaConfig(), hf.LlamaForCausalLM, None), (convolving, hf.LlamaForCausalLM, "the conv layers may carry"),
        (hf.LlamaConfig(), stateful, "the recurrent layers may carry"),
    ):  # fmt: skip
        chosen = layout_of("auto", {"model.path": ModelKind(config, made_by)}, 64)
        assert chosen.layout == ("prefix_shared" if why is None else "padded")
        assert why is None or why in str(chosen.why)


def test_windows_are_the_models_own_where_its_attention_is() -> None:
    config = hf.MistralConfig(sliding_window=64)
    own = type("Own", (hf.MistralForCausalLM,), {"_supports_attention_backend": False})
    for made_by, long in ((hf.MistralForCausalLM, "prefix_shared"), (own, "padded")):
        for length, layout in ((64, "prefix_shared"), (65, long)):
            assert layout_of("auto", {"model.path": ModelKind(config, made_by)}, length).layout == layout

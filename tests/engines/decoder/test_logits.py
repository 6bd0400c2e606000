"""What models do to their logits after the head: found out, followed, or refused with the model's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutput

from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.engines.decoder.logits import logit_map
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig, ReferenceReadings
from sparsepo_dist.ops import PLAIN, LogitMap
from tests.engines.attention.test_layouts import logps, of_transformers
from tests.support.tiny import VOCABULARY, tiny_config, tiny_tokenizer, write_pairs

SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 256, "vocab_size": VOCABULARY, "head_dim": 8,
    "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257,
}  # fmt: skip
FALCON_H1 = {
    "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8,
    "mamba_expand": 1, "mamba_chunk_size": 16,
}  # fmt: skip
MINICPM3 = {
    "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}  # fmt: skip
RECURRENT = {"lru_width": 32, "block_types": ("recurrent", "attention")}
MODELS: dict[str, tuple[dict[str, Any], LogitMap]] = {
    "Gemma2": ({"final_logit_softcapping": 0.3}, LogitMap(1.0, 0.3)),
    "Cohere": ({"logit_scale": 0.0625}, LogitMap(0.0625)),
    "Granite": ({"logits_scaling": 13.0}, LogitMap(1 / 13)),
    "RecurrentGemma": ({"logits_soft_cap": 0.3, **RECURRENT}, LogitMap(1.0, 0.3)),
    "FalconH1": ({"lm_head_multiplier": 0.25, **FALCON_H1}, LogitMap(0.25)),
    "MiniCPM3": ({"dim_model_base": 8, **MINICPM3}, LogitMap(0.25)),
    "HyperCLOVAX": ({"logits_scaling": 13.0}, LogitMap(13.0)),
}
"""By family: what of its configuration it is about, and what that does. A field divides here and multiplies there."""


def config_of(family: str) -> PretrainedConfig:
    return getattr(transformers, f"{family}Config")(**{**SHAPE, **MODELS[family][0]})


def empty(config: PretrainedConfig) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("family", MODELS)
def test_what_a_family_does_is_found_out_and_followed(family: str, tmp_path: Path) -> None:
    config, want = config_of(family), MODELS[family][1]
    found = logit_map(empty(config))
    assert found.scale == pytest.approx(want.scale, rel=1e-12) and found.cap == pytest.approx(want.cap, rel=1e-12)

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    pairs = load_tokenized(str(write_pairs(tmp_path / "pairs.jsonl", 3)), tiny_tokenizer(), DataConfig())
    got = logps(tmp_path, pack(pairs, [1.0] * len(pairs), "padded"), "padded")
    torch.testing.assert_close(got, of_transformers(tmp_path, pairs), rtol=1e-5, atol=2e-5)


def test_a_family_that_does_nothing_to_its_logits_is_plain() -> None:
    assert logit_map(empty(tiny_config("gptj"))) == PLAIN  # with a bias
    assert logit_map(empty(transformers.MptConfig(d_model=32, n_heads=4, n_layers=2, logit_scale=0.5))) == PLAIN


class Normed(LlamaForCausalLM):
    """Normalises what its head reads."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        outputs = self.model(*arguments, **options)
        logits = self.lm_head(nn.functional.normalize(outputs.last_hidden_state, dim=-1))
        return CausalLMOutput(logits=logits)


class Cut(LlamaForCausalLM):
    """Has fewer logits than its head entries."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        outputs = super().forward(*arguments, **options)
        outputs.logits = outputs.logits[..., :-3]
        return outputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normed(tiny_config("llama")), "Normed changes its logits .* by more than a factor and a soft cap"),
        (lambda: Cut(tiny_config("llama")), "Cut has a head of 272 entries and gives logits of 269"),
        (lambda: empty(transformers.ModernBertDecoderConfig(**SHAPE)), "ModernBertDecoderForCausalLM: what it does"),
        (lambda: empty(transformers.BertConfig(is_decoder=True)), "BertLMHeadModel has a head that is more than one"),
    ],
)
def test_what_is_neither_factor_nor_cap_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        logit_map(make())


def test_the_mean_logit_follows_a_factor_and_refuses_a_cap() -> None:
    config = MaskConfig(sites="released", site_types=["logits"])
    model = AutoModelForCausalLM.from_config(config_of("Granite"), dtype=torch.float32)
    head, hidden = model.get_output_embeddings(), torch.randn(5, 32)
    readings = ReferenceReadings(model.model, head, logit_map(model), ("activation",), config)
    with readings.collect(torch.zeros(5, dtype=torch.int64)) as collected:
        means = collected.outputs(hidden).site_means
    torch.testing.assert_close(means[0], head(hidden).mean(-1) / 13)
    with pytest.raises(UserError, match=r"caps its logits at 0\.3, .* leave logits out"):
        ReferenceReadings(model.model, head, MODELS["Gemma2"][1], ("activation",), config)

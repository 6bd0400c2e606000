"""What makes a model's family right or wrong in a layout, where its layers are not plain attention.

Source: the modelling code of transformers 5.23, and each family held against it, one sequence at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

MIXERS: dict[str, str] = {
    "bailing_hybrid": "BailingHybridDeltaAttention",
    "bamba": "BambaMixer",
    "falcon_h1": "FalconH1Mixer",
    "falcon_mamba": "FalconMambaMixer",
    "granitemoehybrid": "GraniteMoeHybridMambaLayer",
    "jamba": "JambaMambaMixer",
    "kimi_linear": "KimiLinearDeltaAttention",
    "lfm2": "Lfm2ShortConv",
    "lfm2_moe": "Lfm2MoeShortConv",
    "lfm3": "Lfm3ShortConv",
    "mamba": "MambaMixer",
    "mamba2": "Mamba2Mixer",
    "minimax": "MiniMaxLightningAttention",
    "nemotron_h": "NemotronHMamba2Mixer",
    "olmo_hybrid": "OlmoHybridGatedDeltaNet",
    "qwen3_5_moe_text": "Qwen3_5MoeGatedDeltaNet",
    "qwen3_5_text": "Qwen3_5GatedDeltaNet",
    "qwen3_next": "Qwen3NextGatedDeltaNet",
    "recurrent_gemma": "RecurrentGemmaRecurrentBlock",
    "rwkv": "RwkvSelfAttention RwkvFeedForward",
    "zamba": "ZambaMambaMixer",
    "zamba2": "Zamba2MambaMixer",
    "zaya": "ZayaCCAProjection",
}
"""By `model_type`, the classes of the modules that carry a state from token to token; causal, all of them. Without a
family that has such modules, or might, in this table only `padded` is right."""

ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""What `layer_types` calls layers in which tokens meet by attention alone."""

ONLY_PADDED: Mapping[str, str] = {
    "gpt_neo": "local layers count their window in places of the row",
    "openai-gpt": "attention has a mask for no more tokens than the model has positions",
    "xlstm": "long rows are computed in parts in evaluation, from one state to the next",
}
"""By `model_type`, why neither packed layout is right."""

"""Two or three random layers of each family whose tokens meet otherwise than by attention alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers as hf
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from tests.support.tiny import VOCABULARY

_SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 256, "bos_token_id": 256, "eos_token_id": 257,
    "pad_token_id": 0,
}  # fmt: skip
_WHOLE = {**_SHAPE, "num_key_value_heads": 4}
_TWO = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
_THREE = {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}
_DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "head_dim": 8,
}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_SHARED_EXPERT = {**_EXPERTS, "shared_expert_intermediate_size": 16}
_LATENT = {"kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "head_dim": 8}
_MAMBA2 = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8,
}  # fmt: skip
_PURE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "bailing_hybrid": lambda: hf.BailingHybridConfig(
        **_WHOLE, **_TWO, **_LATENT, **_EXPERTS, q_lora_rank=8, n_group=1, topk_group=1
    ),
    "bamba": lambda: hf.BambaConfig(**_SHAPE, **_MAMBA2, num_hidden_layers=2, attn_layer_indices=[1]),
    "falcon_h1": lambda: hf.FalconH1Config(
        **_SHAPE, **{**_MAMBA2, "mamba_n_heads": 4}, num_hidden_layers=2, mamba_d_ssm=32
    ),
    "falcon_mamba": lambda: hf.FalconMambaConfig(**_PURE, state_size=8, time_step_rank=4),
    "granitemoehybrid": lambda: hf.GraniteMoeHybridConfig(
        **_SHAPE, **_MAMBA2, num_hidden_layers=2, layer_types=["mamba", "attention"], num_local_experts=4,
        num_experts_per_tok=2, shared_intermediate_size=16, position_embedding_type="rope",
    ),
    "jamba": lambda: hf.JambaConfig(
        **_SHAPE, num_hidden_layers=2, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
        expert_layer_offset=1, num_experts=4, mamba_d_state=8, mamba_dt_rank=4,
    ),
    "kimi_linear": lambda: hf.KimiLinearConfig(
        **_WHOLE, **_TWO, **_LATENT, **_EXPERTS, q_lora_rank=None, linear_head_dim=8, linear_num_heads=4
    ),
    "lfm2": lambda: hf.Lfm2Config(**_SHAPE, **_THREE, block_auto_adjust_ff_dim=False),
    "lfm2_moe": lambda: hf.Lfm2MoeConfig(**_SHAPE, **_THREE, **_EXPERTS, num_dense_layers=1),
    "lfm3": lambda: hf.Lfm3Config(**_SHAPE, **_THREE),
    "mamba": lambda: hf.MambaConfig(**_PURE, state_size=8, time_step_rank=4),
    "mamba2": lambda: hf.Mamba2Config(**_PURE, state_size=8, num_heads=8, head_dim=8, n_groups=1, chunk_size=8),
    "minimax": lambda: hf.MiniMaxConfig(
        **_SHAPE, **_TWO, block_size=8, num_local_experts=4, num_experts_per_tok=2, head_dim=8
    ),
    "nemotron_h": lambda: hf.NemotronHConfig(
        **_SHAPE, layers_block_type=["mamba", "attention", "mlp"], mamba_num_heads=8, mamba_head_dim=8, n_groups=1,
        ssm_state_size=8, chunk_size=8, head_dim=8,
    ),
    "olmo_hybrid": lambda: hf.OlmoHybridConfig(**_WHOLE, **_TWO, **{**_DELTA, "linear_num_key_heads": 4}),
    "qwen3_5_moe_text": lambda: hf.Qwen3_5MoeTextConfig(**_SHAPE, **_TWO, **_DELTA, **_SHARED_EXPERT),
    "qwen3_5_text": lambda: hf.Qwen3_5TextConfig(**_SHAPE, **_TWO, **_DELTA),
    "qwen3_next": lambda: hf.Qwen3NextConfig(**_SHAPE, **_TWO, **_DELTA, **_SHARED_EXPERT),
    "recurrent_gemma": lambda: hf.RecurrentGemmaConfig(
        **_SHAPE, num_hidden_layers=2, lru_width=32, attention_window_size=256, head_dim=8,
        block_types=["recurrent", "attention"], logits_soft_cap=1e4,
    ),
    "rwkv": lambda: hf.RwkvConfig(**_PURE, attention_hidden_size=32, intermediate_size=64, rescale_every=0),
    "xlstm": lambda: hf.xLSTMConfig(
        **_PURE, embedding_dim=32, num_blocks=2, num_heads=4, chunk_size=8, output_logit_soft_cap=1e4
    ),
    "zamba": lambda: hf.ZambaConfig(
        **_WHOLE, num_hidden_layers=5, n_mamba_heads=2, mamba_d_state=8, mamba_dt_rank=4,
        layers_block_type=["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"],
    ),
    "zamba2": lambda: hf.Zamba2Config(
        **_WHOLE, num_hidden_layers=3, layers_block_type=["linear_attention", "hybrid", "linear_attention"],
        mamba_ngroups=1, n_mamba_heads=8, mamba_headdim=8, mamba_d_state=8, chunk_size=8, num_mem_blocks=1,
        use_mem_rope=True,
    ),
    "zaya": lambda: hf.ZayaConfig(**_SHAPE, num_hidden_layers=2, head_dim=8),
}  # fmt: skip


def hybrid(config: PretrainedConfig, attention: str) -> PreTrainedModel:
    """A model in float32 whose weights, the same for every attention, make logits differ visibly between tokens."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    )
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn_like(parameter)
            parameter.copy_(0.15 * noise) if parameter.dim() > 1 else parameter.add_(0.1 * noise)
    return model

"""A decoder of a few narrow layers that is otherwise as a configuration has it: every kind of layer, every switch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

OF_EACH_KIND, MOST_LAYERS = 2, 8

# Widths that fit each other: 4 heads of 16 are 64 wide; a state space of twice 64 has 8 heads of 16.
_SIZES = {
    64: (
        "hidden_size d_model n_embd emb_dim embedding_dim embedding_size input_embedding_size output_embedding_size "
        "word_embed_proj_dim lru_width attention_hidden_size dim_model_base ple_embed_dim"
    ),
    128: (
        "intermediate_size decoder_ffn_dim encoder_ffn_dim ffn_dim dim_ff dff d_inner ffn_hidden_size n_inner "
        "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size intermediate_size_mlp "
        "shared_experts_intermediate_size expert_ffn_hidden_size dense_intermediate_size feed_forward_size "
        "moe_shared_expert_intermediate_size mamba_d_ssm"
    ),
    4: (
        "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads encoder_attention_heads "
        "num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads linear_num_value_heads "
        "linear_num_heads num_experts n_routed_experts num_local_experts moe_num_experts num_query_groups"
    ),
    2: (
        "num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads num_experts_per_tok moe_topk "
        "num_experts_per_token moe_k n_group num_expert_group topk_group hc_mult hc_count n_mamba_heads"
    ),
    16: (
        "head_dim swa_head_dim v_head_dim qk_nope_head_dim kv_lora_rank linear_key_head_dim linear_value_head_dim "
        "linear_head_dim index_head_dim kv_channels d_head dim_head attention_head_dim attention_head_size "
        "mamba_d_state state_size ssm_state_size mamba_d_head mamba_head_dim mamba_headdim time_step_rank "
        "mamba_dt_rank index_n_heads o_lora_rank hidden_size_per_layer_input laurel_rank router_hidden_size "
        "adapter_rank hc_lowrank"
    ),
    32: "q_lora_rank",
    24: "qk_head_dim",
    8: "qk_rope_head_dim mamba_n_heads mamba_num_heads rotary_dim d_rel",
}  # fmt: skip
SIZES = {name: size for size, names in _SIZES.items() for name in names.split()}
"""Fields of configurations, and what they become."""
_DEPTHS = [
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "encoder_layers",
    "num_decoder_layers",
    "num_encoder_layers",
    "num_blocks",
    "num_layers_per_stack",
]
_PLACES = ("hybrid_layer_ids", "ple_layer_ids", "full_attn_idxs", "attn_layer_indices")  # of some layers, in a list
# Each kind of layer that these space out comes in the first two layers.
_SPACING = {
    "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
    "first_k_dense_replace": 1, "num_dense_layers": 1, "moe_layer_start_index": 1, "moe_layer_end_index": 2,
    "layer_group_size": 2, "max_window_layers": 1, "num_nextn_predict_layers": 0, "num_kv_shared_layers": 0,
    "global_attn_every_n_layers": 2, "num_mem_blocks": 1,
}  # fmt: skip


def miniature(config: PretrainedConfig, vocabulary: int = 128) -> PretrainedConfig:
    """The configuration of a decoder of the same class and switches, a few layers deep and some 64 wide.

    Its layers are the first of each kind that the configuration lists, at least two. Only the text part of a composite
    one comes back.
    """
    text = config.get_text_config(decoder=True)
    fields = {k: v for k, v in text.to_dict().items() if k not in ("architectures", "auto_map", "model_type", "dtype")}
    depth = next((fields[name] for name in _DEPTHS if fields.get(name)), OF_EACH_KIND)
    layers = _kinds(fields, depth)
    small = {name: _smaller(name, value, depth, layers) for name, value in fields.items()}
    _fit(fields, small)
    small |= {name: vocabulary for name in fields if name in ("vocab_size", "vocab_size_per_layer_input")}
    for name, value in small.items():
        if name.endswith("token_id") and _counts(value):
            small[name] = min(value, vocabulary - 1)
    return type(text)(**small)


def _smaller(name: str, value: Any, depth: int, layers: list[int]) -> Any:
    if name in _DEPTHS and value:
        return len(layers)
    if _counts(value):
        return min(value, SIZES.get(name, _SPACING.get(name, value)))
    if isinstance(value, Mapping) and value and all(str(key).isdigit() for key in value):  # by layer
        of_layer = {int(key): of for key, of in value.items()}
        return {i: _all_smaller(of_layer[layer]) for i, layer in enumerate(layers) if layer in of_layer}
    if _listed(value) and len(value) == depth:
        return [_smaller(name, value[layer], depth, layers) for layer in layers]
    if name in _PLACES and value:
        return [place for place, layer in enumerate(layers) if layer in value]
    return value


def _all_smaller(fields: Any) -> Any:
    if not isinstance(fields, Mapping):
        return fields
    small = {name: _smaller(name, value, -1, []) for name, value in fields.items()}
    _fit(fields, small)
    return small


def _fit(fields: Mapping[str, Any], small: dict[str, Any]) -> None:
    """Make widths fit that families derive from each other in ways of their own."""
    if fields.get("num_key_value_heads") == fields.get("num_attention_heads") is not None:
        small["num_key_value_heads"] = small["num_attention_heads"]
    if "qk_nope_head_dim" in fields and "head_dim" in fields:  # of what is rotated, or of all
        rotated = fields["head_dim"] == fields["qk_rope_head_dim"]
        small["head_dim"] = small["qk_rope_head_dim"] + (0 if rotated else small["qk_nope_head_dim"])
    if "expand" in fields and "num_heads" in fields:  # a state space's, not attention's
        small["num_heads"] = 8
    if "mamba_n_heads" in fields and _counts(fields.get("mamba_d_head")):
        small["mamba_d_head"] = 16
    if "attention_head_dim" in fields:  # attention over a layer's input beside the first layer's
        small["attention_head_dim"], small["attention_hidden_size"] = 32, 128
    if "mamba_headdim" in fields:
        small["n_mamba_heads"] = 8


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _kinds(fields: Mapping[str, Any], depth: int) -> list[int]:
    """The first two layers of each kind that lists of as many entries as layers tell apart."""
    lists = [value for value in fields.values() if _listed(value) and len(value) == depth]
    kinds: dict[str, list[int]] = {}
    by_layer = {int(k): v for k, v in (fields.get("per_layer_config") or {}).items() if str(k).isdigit()}
    for layer in range(depth):
        kind = [by_layer.get(layer), *(values[layer] for values in lists)]
        kinds.setdefault(repr(kind), []).append(layer)
    return sorted(layer for same in kinds.values() for layer in same[:OF_EACH_KIND])[:MOST_LAYERS]

"""The released implementation's sites, computed from transformers' own model by its modules' names, unpacked.

Independent of sparsepo_dist.masks: hidden states come from transformers, the rest is recomputed from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.gptj import modeling_gptj
from transformers.models.llama import modeling_llama


@dataclass(frozen=True)
class Names:
    """What a family calls its modules."""

    blocks: str
    attention: str
    attention_output: str
    attention_norm: str
    mlp_norm: str
    mlp: tuple[str, ...]
    """Into the activation function, then, in gated ones, the other factor; the way back last."""
    activation: str
    final_norm: str


_GPT = Names("h", "attn", "c_proj", "ln_1", "ln_2", ("c_fc", "c_proj"), "act", "ln_f")
_LLAMA = Names(
    "layers", "self_attn", "o_proj", "input_layernorm", "post_attention_layernorm",
    ("gate_proj", "up_proj", "down_proj"), "act_fn", "norm",
)  # fmt: skip
NAMES = {
    **dict.fromkeys(("llama", "qwen2", "mistral", "gemma"), _LLAMA),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), _GPT),
    "gptj": Names("h", "attn", "out_proj", "ln_1", "ln_1", ("fc_in", "fc_out"), "act", "ln_f"),
    "gpt_neox": Names(
        "layers", "attention", "dense", "input_layernorm", "post_attention_layernorm",
        ("dense_h_to_4h", "dense_4h_to_h"), "act", "final_layer_norm",
    ),
}  # fmt: skip

Sites = dict[str, list[Tensor]]


@torch.no_grad()
def released_sites(model: Any, ids: list[int]) -> Sites:
    """Type to activations of one sequence, [T, ...] each, in the order of blocks; the logits' type has the logits."""
    names, base = NAMES[model.config.model_type], model.base_model
    blocks = getattr(base, names.blocks)
    captured = _attention_outputs(blocks, names)
    out = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    hidden = [states[0] for states in out.hidden_states]
    sites: Sites = {"mlp": [], "attention": [], "residual": [hidden[0]], "logits": [out.logits[0]]}
    for layer, block in enumerate(blocks):
        attention = getattr(block, names.attention)
        before_projection = captured[layer]
        attended = getattr(attention, names.attention_output)(before_projection)
        normed = getattr(block, names.attention_norm)(hidden[layer])
        sites["attention"] += [*_query_key_value(base, attention, normed), before_projection]
        stream = hidden[layer] if _parallel(model.config) else hidden[layer] + attended
        mlp_input = getattr(block, names.mlp_norm)(stream)
        activated, delta = _feed_forward(block.mlp, names, mlp_input)
        sites["mlp"].append(activated)
        block_output = hidden[layer] + attended + delta
        own_norm = [mlp_input] if names.mlp_norm != names.attention_norm else []
        sites["residual"] += [hidden[layer], normed, attended, *own_norm, delta, block_output]
        if layer + 1 < len(blocks):
            torch.testing.assert_close(block_output, hidden[layer + 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(getattr(base, names.final_norm)(block_output), hidden[-1], rtol=1e-4, atol=1e-4)
    sites["residual"].append(hidden[-1])
    return sites


def _attention_outputs(blocks: nn.ModuleList, names: Names) -> dict[int, Tensor]:
    """Fills while the model runs: what goes into each attention's output projection."""
    captured: dict[int, Tensor] = {}
    for layer, block in enumerate(blocks):
        projection = getattr(getattr(block, names.attention), names.attention_output)
        projection.register_forward_pre_hook(lambda _, args, layer=layer: captured.update({layer: args[0][0]}))
    return captured


def _parallel(config: Any) -> bool:
    return config.model_type == "gptj" or getattr(config, "use_parallel_residual", False)


def _feed_forward(mlp: Any, names: Names, hidden: Tensor) -> tuple[Tensor, Tensor]:
    first, *gates, back = (getattr(mlp, name) for name in names.mlp)
    activated = getattr(mlp, names.activation)(first(hidden))
    for gate in gates:
        activated = activated * gate(hidden)
    return activated, back(activated)


def _query_key_value(base: Any, attention: Any, hidden: Tensor) -> list[Tensor]:
    """q, k, v and, where positions turn them, q and k after that: [T, heads, width] each."""
    config, length = base.config, len(hidden)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    if config.model_type == "gpt2":
        return [part.view(length, heads, width) for part in attention.c_attn(hidden).split(config.hidden_size, -1)]
    if config.model_type == "gpt_bigcode" and config.multi_query:
        fused = attention.c_attn(hidden).view(length, heads + 2, width)
        return [fused[:, :heads], fused[:, heads : heads + 1], fused[:, heads + 1 :]]
    if config.model_type == "gpt_bigcode":
        fused = attention.c_attn(hidden).view(length, heads, 3 * width)
        return [fused[..., i * width : (i + 1) * width] for i in range(3)]
    positions = torch.arange(length)[None]
    if config.model_type == "gptj":
        query, key, value = (getattr(attention, f"{n}_proj")(hidden).view(1, length, heads, width) for n in "qkv")
        sin, cos = attention.embed_positions[:length].chunk(2, -1)
        turned = [
            torch.cat([modeling_gptj.apply_rotary_pos_emb(x[..., : config.rotary_dim], sin[None], cos[None]),
                       x[..., config.rotary_dim :]], -1)
            for x in (query, key)
        ]  # fmt: skip
        return [part[0] for part in (query, key, value, *turned)]
    if config.model_type == "gpt_neox":
        fused = attention.query_key_value(hidden).view(1, length, heads, 3 * width).transpose(1, 2)
        query, key, value = (fused[..., i * width : (i + 1) * width] for i in range(3))
        apply = modeling_gpt_neox.apply_rotary_pos_emb
    else:
        query, key, value = (
            getattr(attention, f"{n}_proj")(hidden).view(1, length, -1, width).transpose(1, 2) for n in "qkv"
        )
        apply = modeling_llama.apply_rotary_pos_emb
    turned = apply(query, key, *base.rotary_emb(hidden[None], positions))
    return [part[0].transpose(0, 1) for part in (query, key, value, *turned)]

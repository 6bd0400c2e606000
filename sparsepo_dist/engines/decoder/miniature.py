"""A decoder of a few narrow layers that is otherwise as a configuration has it."""

from __future__ import annotations

from transformers import PretrainedConfig

LAYERS, _WIDTH, _HEADS = 2, 64, 4
_SIZES = {
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "hidden_size": _WIDTH, "n_embd": _WIDTH, "intermediate_size": 128,
    "n_inner": 128, "num_attention_heads": _HEADS, "n_head": _HEADS, "num_key_value_heads": 2,
    "head_dim": _WIDTH // _HEADS, "rotary_dim": 8,
}  # fmt: skip


def miniature(config: PretrainedConfig, vocabulary: int = 128) -> PretrainedConfig:
    """The configuration of a decoder of the same class and switches, two layers deep and some 64 wide."""
    fields = config.get_text_config(decoder=True).to_dict()
    small = {name: min(size, fields[name]) for name, size in _SIZES.items() if fields.get(name)}
    if fields.get("layer_types"):
        small["layer_types"] = fields["layer_types"][:LAYERS]
    ids = {name: min(value, vocabulary - 1) for name, value in fields.items() if name.endswith("token_id") and value}
    return type(config).from_dict({**fields, **small, **ids, "vocab_size": vocabulary})

"""The parts of a transformers decoder, found by structure rather than by name, adapters or 4-bit weights or not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn
from transformers.activations import ACT2CLS, ACT2FN
from transformers.pytorch_utils import Conv1D

from sparsepo_dist.errors import UserError
from sparsepo_dist.masks.hooks import Split

_BY_PATTERN = "name the modules to read with masks.site_patterns"


def decoder_blocks(model: nn.Module, remedy: str = _BY_PATTERN) -> nn.ModuleList:
    """The decoder's blocks: the shallowest ModuleList of as many modules as it has layers, all of one type.

    Raises:
        UserError: there is none; the message lists the module lists that were found.
    """
    config: Any = model.config
    layers: int = config.num_hidden_layers
    queue: deque[nn.Module] = deque([model])
    found = []
    while queue:
        for name, child in queue.popleft().named_children():
            if isinstance(child, nn.ModuleList):
                if len(child) == layers and len({type(block) for block in child}) == 1:
                    return child
                found.append(f"{name} ({len(child)} modules)")
            queue.append(child)
    raise UserError(
        f"masks: {type(model).__name__} has no list of {layers} like blocks to read; found "
        f"{', '.join(found) or 'no ModuleList'}; {remedy}"
    )


def attention_of(block: nn.Module) -> nn.Module:
    """The block's attention module. Raises UserError where none is recognised."""
    for child in block.children():
        if "attention" in type(child).__name__.lower():
            return child
    raise _not_found(block, "attention")


def feed_forward_of(block: nn.Module) -> nn.Module:
    """The block's child that holds an activation function outside attention. Raises UserError where there is none."""
    attention = attention_of(block)
    for child in block.children():
        holds = any(isinstance(module, _ACTIVATIONS) for module in child.modules() if module is not child)
        if child is not attention and holds:
            return child
    raise _not_found(block, "feed-forward")


def output_projection(parent: nn.Module, width: int) -> nn.Module:
    """An attention's or feed-forward's last linear map, which leads back to the hidden width D, `width`.

    Raises:
        UserError: there is none, or it leads elsewhere.
    """
    linears = [child for child in parent.children() if _output_width(child) is not None]
    if not linears or _output_width(linears[-1]) != width:
        raise _not_found(parent, "output projection")
    return linears[-1]


def norms_of(block: nn.Module) -> int:
    """How many norms a block has: one where attention and feed-forward read the same."""
    return sum("norm" in type(child).__name__.lower() for child in block.children())


class Projection(NamedTuple):
    """A linear map to query, key or value, or to all three."""

    name: str
    module: nn.Module
    split: Split | None = None


def query_key_value(attention: nn.Module) -> list[Projection]:
    """The maps to query, key and value: three, or a fused one and how its output is taken apart.

    Raises:
        UserError: neither is recognised.
    """
    names = ("q_proj", "k_proj", "v_proj")
    if all(hasattr(attention, name) for name in names):
        return [Projection(name, getattr(attention, name)) for name in names]
    name, split = _FUSED.get(type(attention).__name__, (None, None))
    if name is None or split is None:
        raise _not_found(attention, "query, key and value projection")
    return [Projection(name, getattr(attention, name), split(attention))]


def has_rotary(model: nn.Module, attention: nn.Module) -> bool:
    """Whether queries and keys are turned by their positions after projection."""
    # GPT-J keeps its angles in the attention, the others have a module for them.
    return hasattr(attention, "rotary_dim") or any("rotary" in type(m).__name__.lower() for m in model.modules())


def _gpt2(_: Any) -> Split:
    return lambda output: output.chunk(3, -1)


def _interleaved(heads: int, head_width: int) -> Split:
    """Each head has its own query, key and value side by side."""
    return lambda output: output.unflatten(-1, (heads, 3, head_width)).unbind(-2)


def _gpt_neox(attention: Any) -> Split:
    return _interleaved(attention.config.num_attention_heads, attention.head_size)


def _gpt_bigcode(attention: Any) -> Split:
    if not attention.multi_query:
        return _interleaved(attention.num_heads, attention.head_dim)
    sizes = [attention.embed_dim, attention.kv_dim, attention.kv_dim]
    return lambda output: output.split(sizes, -1)


_FUSED: dict[str, tuple[str, Callable[[Any], Split]]] = {
    "GPT2Attention": ("c_attn", _gpt2),
    "GPTNeoXAttention": ("query_key_value", _gpt_neox),
    "GPTBigCodeAttention": ("c_attn", _gpt_bigcode),
}

_ACTIVATIONS: tuple[type, ...] = tuple(
    {type(ACT2FN[name]) for name in ("gelu", "gelu_new", "relu", "silu", "gelu_fast", "gelu_pytorch_tanh")}
    | {entry if isinstance(entry, type) else entry[0] for entry in ACT2CLS.values()}
)


def _output_width(module: Any) -> int | None:
    """Outputs of a linear map, under an adapter's wrapper too; None for what is no linear map."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    if isinstance(module, Conv1D):
        return int(module.nf)
    return int(module.out_features) if isinstance(module, nn.Linear) else None


def _not_found(parent: nn.Module, what: str) -> UserError:
    children = ", ".join(f"{name}: {type(child).__name__}" for name, child in parent.named_children())
    return UserError(
        f"masks: no {what} was recognised in {type(parent).__name__} (its modules: {children or 'none'}); {_BY_PATTERN}"
    )

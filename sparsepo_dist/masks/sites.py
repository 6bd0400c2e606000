"""Where activations are read: modules of any transformers decoder, found by structure rather than by name."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from torch import nn
from transformers.activations import ACT2CLS, ACT2FN

from sparsepo_dist.errors import UserError


class Site(NamedTuple):
    """A hooked module and the type of its activation: attention, mlp or residual."""

    kind: str
    module: nn.Module


def decoder_blocks(model: nn.Module, layers: int) -> nn.ModuleList:
    """The decoder's blocks: the shallowest ModuleList of `layers` modules of one type.

    Raises:
        UserError: there is none; the message lists the module lists that were found.
    """
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
        f"masks: {type(model).__name__} has no list of {layers} like blocks to read hidden states from; "
        f"found {', '.join(found) or 'no ModuleList'}"
    )


def activation_sites(model: nn.Module, layers: int) -> list[Site]:
    """The paper's sites of every layer: attention output, feed-forward output, residual stream (block output).

    Raises:
        UserError: a block without a recognisable attention or feed-forward module; its children are listed.
    """
    sites = []
    for block in decoder_blocks(model, layers):
        attention = _attention(block)
        feed_forward = _feed_forward(block, attention)
        sites += [Site("attention", attention), Site("mlp", feed_forward), Site("residual", block)]
    return sites


def _attention(block: nn.Module) -> nn.Module:
    for child in block.children():
        if "attention" in type(child).__name__.lower():
            return child
    raise _not_found(block, "attention")


_ACTIVATIONS: tuple[type, ...] = tuple(
    {type(ACT2FN[name]) for name in ("gelu", "gelu_new", "relu", "silu", "gelu_fast", "gelu_pytorch_tanh")}
    | {entry if isinstance(entry, type) else entry[0] for entry in ACT2CLS.values()}
)


def _feed_forward(block: nn.Module, attention: nn.Module) -> nn.Module:
    """The block's child that holds an activation function outside attention."""
    for child in block.children():
        holds = any(isinstance(module, _ACTIVATIONS) for module in child.modules() if module is not child)
        if child is not attention and holds:
            return child
    raise _not_found(block, "feed-forward")


def _not_found(block: nn.Module, what: str) -> UserError:
    children = ", ".join(f"{name}: {type(child).__name__}" for name, child in block.named_children())
    return UserError(f"masks: no {what} module was recognised in {type(block).__name__} (its modules: {children})")

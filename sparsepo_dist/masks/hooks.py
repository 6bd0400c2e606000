"""What is kept of a reference's activations while its forward runs: numbers of the response tokens, nothing else.

Shapes: N response tokens; activations are [rows, T, features] or [rows * T, features].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sparsepo_dist.errors import UserError

Split = Callable[[Tensor], Sequence[Tensor]]
QueryKey = Callable[[Tensor, Tensor], None]

RECORDED_ATTENTIONS: set[str] = set()
"""transformers' names of the attention functions that call `see_attention`."""
_attention_recorders: dict[nn.Module, QueryKey] = {}
_places: list[Tensor] = []


class Site(NamedTuple):
    """Where activations are read, and what type they count as."""

    kind: str
    """mlp, attention or residual."""
    name: str
    """For messages."""
    module: nn.Module
    at: Literal["output", "input", "query_key"]
    """Of the module; query_key is what an attention module's function gets: after rotary embeddings, if any."""
    split: Split | None = None
    """Takes an output of several activations apart."""
    parts: int = 1
    """Number of activations."""


def see_attention(module: nn.Module, query: Tensor, key: Tensor) -> None:
    """Called by attention functions: [rows, heads, T, head width] each."""
    recorder = _attention_recorders.get(module)
    if recorder is not None:
        recorder(query, key)


@contextmanager
def moved(place: Tensor) -> Iterator[None]:
    """While open, modules compute the batch's tokens in other places, in an order of their own: `place` [T] int64."""
    _places.append(place)
    try:
        yield
    finally:
        _places.pop()


@contextmanager
def site_means(sites: Sequence[Site], predict_index: Tensor, *, sigmoid: bool = False) -> Iterator[dict[int, Tensor]]:
    """While open, a forward pass stores, per site's index, a float32 [parts, N]: means over features.

    Means are taken before rows `predict_index` [N] are picked: no copy of an activation is made, but for `sigmoid`,
    with which they are of the features' sigmoids.

    Raises:
        UserError: by the forward pass, where an activation has other dimensions than above.
    """
    means: dict[int, Tensor] = {}

    def keep(index: int, activations: Sequence[Tensor], leading: int) -> None:
        parts = [part.float().sigmoid() for part in activations] if sigmoid else activations
        rows = [part.mean(tuple(range(leading, part.dim())), dtype=torch.float32).flatten() for part in parts]
        picked = _places[-1][predict_index] if _places else predict_index
        means[index] = torch.stack([row[picked] for row in rows])

    def keep_one(index: int, activation: Tensor) -> None:
        site, leading = sites[index], activation.dim() - 1
        if leading not in (1, 2):
            raise UserError(
                f"masks: {site.name} has an activation of shape {list(activation.shape)}; features per token are wanted"
            )
        keep(index, [activation] if site.split is None else site.split(activation), leading)

    def keep_query_key(index: int, query: Tensor, key: Tensor) -> None:
        keep(index, [states.transpose(1, 2) for states in (query, key)], 2)

    with ExitStack() as stack:
        for index, site in enumerate(sites):
            if site.at == "query_key":
                stack.enter_context(_query_key_recorded(site.module, partial(keep_query_key, index)))
            else:
                stack.enter_context(_hooked(site.module, site.at, partial(keep_one, index)))
        yield means


class HiddenStack:
    """[layers, N, D] that fills up layer by layer: no layer is kept twice."""

    def __init__(self, layers: int, predict_index: Tensor) -> None:
        self._layers, self._predict_index = layers, predict_index
        self._stack: Tensor | None = None

    def put(self, layer: int, hidden: Tensor) -> None:
        """Keep the response tokens' rows of a layer's hidden states [rows, T, D]."""
        self.put_rows(layer, hidden.detach().reshape(-1, hidden.shape[-1]), self._predict_index)

    def put_rows(self, layer: int, hidden: Tensor, rows: Tensor | None = None) -> None:
        """Keep hidden states [N, D], or those of the given rows."""
        if self._stack is None:
            self._stack = hidden.new_empty(self._layers, len(self._predict_index), hidden.shape[-1])
        if rows is None:
            self._stack[layer].copy_(hidden)
        else:
            torch.index_select(hidden, 0, rows, out=self._stack[layer])

    def result(self) -> Tensor:
        """[layers, N, D]: all of them, once each has been put."""
        assert self._stack is not None
        return self._stack


@contextmanager
def hidden_rows(modules: Sequence[nn.Module], predict_index: Tensor, layers: int) -> Iterator[HiddenStack]:
    """While open, a forward pass puts the outputs of modules 0, 1, ... into layers of a [layers, N, D] stack."""
    kept = HiddenStack(layers, predict_index)
    with ExitStack() as stack:
        for layer, module in enumerate(modules):
            stack.enter_context(_hooked(module, "output", partial(kept.put, layer)))
        yield kept


@contextmanager
def _hooked(module: nn.Module, at: str, keep: Callable[[Tensor], None]) -> Iterator[None]:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(args[0] if args else kwargs["hidden_states"])

    def after(_: nn.Module, __: Any, output: Any) -> None:
        keep(output if isinstance(output, Tensor) else output[0])

    if at == "input":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _query_key_recorded(attention: Any, keep: QueryKey) -> Iterator[None]:
    if hasattr(attention, "_attn"):
        # Models without transformers' attention interface (GPT-J) call this method of their own.
        method = attention._attn

        def recording(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
            keep(query, key)
            return method(query, key, *args, **kwargs)

        attention._attn = recording
        try:
            yield
        finally:
            del attention._attn
        return
    _attention_recorders[attention] = keep
    try:
        yield
    finally:
        del _attention_recorders[attention]

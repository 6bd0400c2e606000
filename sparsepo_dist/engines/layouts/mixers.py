"""Token mixers that are no attention (convolutions, recurrences, state spaces) run by rows in the packed layouts.

They carry a state from each token to the next, past the ends of sequences and from the chosen response into the
rejected one. So each sequence becomes a row of its own before a mixer, a copy of its prompt included, and is put back
behind it: whatever is causal is right by rows, and its kernels need not know of sequences. All other parts of the
model go on sharing prompts.

Shapes: T packed tokens, R rows (one a sequence), S slots of the longest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks.hooks import moved

_MASKS = ("attention_mask", "conv_mask")  # of padding, of which the packed row has none, or of attention


class Rows(NamedTuple):
    """The sequences of a packed batch as rows."""

    gather_index: Tensor
    """[R, S] int64: the packed position of each slot; behind a sequence's end, of its last token again: padding that
    no earlier token sees, and nothing of another sequence."""
    place: Tensor
    """[T] int64: the flat slot (r * S + s) that holds what a packed token becomes; a shared prompt's, the chosen
    response's."""

    def take(self, states: Tensor) -> Tensor:
        """[1, T, ...] to [R, S, ...]."""
        return states[0].index_select(0, self.gather_index.flatten()).unflatten(0, self.gather_index.shape)

    def put(self, states: Tensor) -> Tensor:
        """[R, S, ...] to [1, T, ...]."""
        return states.flatten(0, 1).index_select(0, self.place).unsqueeze(0)


def sequence_rows(batch: PackedBatch) -> Rows:
    """The rows of a batch in a packed layout, on its device."""
    assert batch.attention is not None
    spans = batch.attention.spans
    longest = max(prompt + max(chosen, rejected) for prompt, chosen, rejected in spans)
    rows: list[list[int]] = []
    place: list[int] = []
    start = 0
    for prompt, chosen, rejected in spans:
        shared, behind = range(start, start + prompt), start + prompt + chosen
        slot = longest * len(rows)
        rows.append([*shared, *range(start + prompt, behind)])
        place += range(slot, slot + prompt + chosen)
        if rejected:
            slot = longest * len(rows) + prompt
            rows.append([*shared, *range(behind, behind + rejected)])
            place += range(slot, slot + rejected)
        start = behind + rejected
    padded = [[*row, *row[-1:] * (longest - len(row))] for row in rows]
    device = batch.input_ids.device
    return Rows(torch.tensor(padded, device=device), torch.tensor(place, device=device))


class ByRows:
    """The mixers of a model, run by rows of the batch whose forward pass began last: backward may run parts again."""

    def __init__(self, model: nn.Module, mixers: Collection[str]) -> None:
        """Wrap the modules of a model whose class has one of the names `mixers`."""
        self._rows: Rows | None = None
        found = [module for module in model.modules() if type(module).__name__ in mixers]
        for module in found:
            setattr(module, "forward", self._by_rows(module.forward))  # noqa: B010
        self.mixers = len(found)
        """How many modules that are."""

    def begin(self, batch: PackedBatch | None) -> None:
        """Go by a batch; in the layout `padded`, and where it is None, rows are sequences already."""
        self._rows = None if batch is None or batch.attention is None else sequence_rows(batch)

    def _by_rows(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(forward)
        others = {name for name, parameter in signature.parameters.items() if parameter.kind is parameter.VAR_KEYWORD}

        @wraps(forward)
        def by_rows(*args: Any, **kwargs: Any) -> Any:
            rows = self._rows
            if rows is None:
                return forward(*args, **kwargs)
            given = signature.bind(*args, **kwargs)
            _check(next(iter(given.arguments.values())), rows)
            for name, value in given.arguments.items():
                given.arguments[name] = _all_taken(rows, value) if name in others else _taken(rows, name, value)
            with moved(rows.place):
                mixed = forward(*given.args, **given.kwargs)
            return _each(rows.put, mixed, rows.gather_index.shape)

        return by_rows


def _check(states: Tensor, rows: Rows) -> None:
    if states.shape[:2] != (1, len(rows.place)):
        raise UserError(
            f"data.layout: a layer is given states of shape {list(states.shape)} of {len(rows.place)} packed tokens; "
            "say --data.layout padded"
        )


def _all_taken(rows: Rows, values: dict[str, Any]) -> dict[str, Any]:
    return {name: _taken(rows, name, value) for name, value in values.items() if name != "attention_blocks"}


def _taken(rows: Rows, name: str, value: Any) -> Any:
    return None if name in _MASKS else _each(rows.take, value, torch.Size((1, len(rows.place))))


def _each(change: Callable[[Tensor], Tensor], value: Any, leading: torch.Size) -> Any:
    """A value with all of its tensors changed that have these leading dimensions: one for each token."""
    if isinstance(value, Tensor):
        return change(value) if value.shape[:2] == leading else value
    return tuple(_each(change, part, leading) for part in value) if isinstance(value, tuple) else value

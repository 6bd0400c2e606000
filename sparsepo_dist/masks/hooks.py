"""Hooks on the reference's modules that keep only what a mask needs of the response tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def site_means(modules: Sequence[nn.Module], predict_index: Tensor) -> Iterator[dict[int, Tensor]]:
    """While open, a forward pass stores, per module's index, a float32 [N]: its output's mean over features.

    The mean is taken before rows are picked: no copy of an activation is made.
    """

    def mean_over_features(activation: Tensor) -> Tensor:
        return activation.mean(-1, dtype=torch.float32).flatten()[predict_index]

    with _recorded(modules, mean_over_features) as means:
        yield means


@contextmanager
def hidden_rows(modules: Sequence[nn.Module], predict_index: Tensor) -> Iterator[dict[int, Tensor]]:
    """While open, a forward pass stores, per module's index, [N, D]: its output's rows at `predict_index`."""

    def pick_rows(activation: Tensor) -> Tensor:
        return activation.reshape(-1, activation.shape[-1])[predict_index]

    with _recorded(modules, pick_rows) as rows:
        yield rows


@contextmanager
def _recorded(modules: Sequence[nn.Module], reduce: Callable[[Tensor], Tensor]) -> Iterator[dict[int, Tensor]]:
    records: dict[int, Tensor] = {}

    def record(index: int, _: nn.Module, __: Any, output: Any) -> None:
        records[index] = reduce(output if isinstance(output, Tensor) else output[0])

    handles = [module.register_forward_hook(partial(record, index)) for index, module in enumerate(modules)]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()

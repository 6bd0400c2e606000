"""What counts as a weight that is no number."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from sparsepo_dist.engines.decoder import finite
from sparsepo_dist.engines.decoder.finite import not_finite, own_part


def shard(values: list[float], whole: int) -> Any:
    """A parameter of `whole` numbers under ZeRO-3, of which this rank has `values`, padding at their end."""
    tensor: Any = torch.tensor(values)
    tensor.ds_numel = len(values)
    return SimpleNamespace(ds_tensor=tensor, ds_numel=whole, ds_process_group=None)


@pytest.mark.parametrize(("rank", "held"), [(0, [1.0, 2.0, 3.0]), (1, [1.0, 2.0]), (2, [])])
def test_padding_of_a_shard_is_nobodys(rank: int, held: list[float]) -> None:
    """Five numbers over three ranks of three places each: DeepSpeed never sets what is left over."""
    values = [*held, *[math.nan] * (3 - len(held))]
    with patch.object(finite.dist, "get_rank", lambda group: rank):
        assert own_part(shard(values, 5)).tolist() == held
        assert not_finite([("weight", shard(values, 5))]) == []
        assert not_finite([("weight", shard([math.nan] * 3, 5))]) == (["weight"] if held else [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_is_enough(dtype: torch.dtype, value: float) -> None:
    spoiled = torch.zeros(3, 5, dtype=dtype)
    spoiled[1, 2] = value
    named = [
        ("good", torch.ones(4, dtype=dtype)),
        ("bad", spoiled),
        ("empty", torch.empty(0)),
        ("ids", torch.arange(3)),
    ]
    assert not_finite(named) == ["bad"]

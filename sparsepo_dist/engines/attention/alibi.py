"""ALiBi in the packed layouts: the bias of a key follows its position in its own sequence, not its packed place.

Softmax does not see what all keys of a query have in common, so a bias by the key's position alone is the whole of it:
the one that a model makes for one sequence, read at each packed token's position.

Shapes: T packed tokens, H heads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.attention.reach import REMEDY
from sparsepo_dist.errors import UserError

# By model_type: the function of the family's module that makes the bias. [H, 1, T] each, for one row of tokens.
_MAKERS = {"bloom": "build_alibi_tensor", "falcon": "build_alibi_tensor", "mpt": "build_mpt_alibi_tensor"}


def has_alibi(config: PretrainedConfig) -> bool:
    """Whether a model's attention takes positions from ALiBi, and so needs no position_ids."""
    return config.model_type in _MAKERS and bool(getattr(config, "alibi", True))


@contextmanager
def packed_alibi(base: PreTrainedModel, batch: PackedBatch) -> Iterator[None]:
    """While open, a decoder with ALiBi makes its bias for the positions of a batch in a packed layout.

    The families' functions count the tokens of a row, which no argument changes.

    Raises:
        UserError: code of the model's own makes it otherwise.
    """
    config = base.config
    if batch.attention is None or not has_alibi(config):
        yield
        return
    name = _MAKERS[config.model_type]
    module: Any = sys.modules[type(base).__module__]
    own = getattr(module, name, None)
    if own is None:
        raise UserError(f"data.layout: {type(base).__name__} has no {name}; {REMEDY}")

    def by_position(first: Any, *others: Any, **named: Any) -> Tensor:
        # MPT's starts with the number of heads, and makes a bias of its longest sequence; the others' with a mask.
        if config.model_type != "mpt":
            first = torch.ones_like(batch.input_ids)[None]
        bias: Tensor = own(first, *others, **named)
        return bias[..., batch.position_ids]

    setattr(module, name, by_position)
    try:
        yield
    finally:
        setattr(module, name, own)

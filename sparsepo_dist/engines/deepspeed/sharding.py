"""Parameters that ZeRO-3 shards: what they are as a whole, and how libraries are told of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.integrations import HfDeepSpeedConfig
from transformers.integrations.deepspeed import unset_hf_deepspeed_config


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """A parameter's shape; under ZeRO-3, where its own is empty until it is gathered, that of the whole."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def whole_numel(parameter: Tensor) -> int:
    """How many numbers a parameter has, whatever of them is here."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


@contextmanager
def announced(zero3: dict[str, Any] | None) -> Iterator[None]:
    """While open, transformers and peft look upon parameters as sharded by this ds_config of stage 3; as whole where it
    is None. They look for a live HfDeepSpeedConfig: exactly one or none."""
    unset_hf_deepspeed_config()
    keep = HfDeepSpeedConfig(zero3) if zero3 is not None else None
    try:
        yield
    finally:
        del keep
        unset_hf_deepspeed_config()

"""Whether weights are numbers; each rank looks at what it holds of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors of which this rank holds a NaN or an Inf. Weights in 4 bits are judged by their scales."""
    return [name for name, tensor in named if not _finite(tensor)]


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a parameter: all of it, or under ZeRO-3 its shard [n].

    The padding of the last ranks' shards is left out: it was never set and may be anything.
    """
    shard: Any = getattr(tensor, "ds_tensor", None)
    if shard is None:
        return tensor.detach()
    parameter: Any = tensor
    before = shard.ds_numel * dist.get_rank(parameter.ds_process_group)
    # A shard that was swapped to a disk is empty here.
    held = min(max(parameter.ds_numel - before, 0), shard.numel())
    return shard.detach().narrow(0, 0, held)


def _finite(tensor: Tensor) -> bool:
    packed: Any = getattr(tensor, "quant_state", None)
    if packed is not None:  # bitsandbytes: one number that is none spoils the mean of all scales
        tensor = packed.offset if packed.nested else packed.absmax
    part = own_part(tensor)
    if not part.is_floating_point() or part.numel() == 0:
        return True
    # Extremes propagate NaN, and need no copy as isfinite does.
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(part))

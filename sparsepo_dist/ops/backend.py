"""Which kernels run a tile."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import NamedTuple

import torch

from sparsepo_dist.errors import UserError
from sparsepo_dist.ops.compiled import CompiledKernels, Loaded, load_cpp, load_cuda
from sparsepo_dist.ops.config import BackendName
from sparsepo_dist.ops.eager import EagerKernels
from sparsepo_dist.ops.kernels import TileKernels

log = logging.getLogger(__name__)

_DTYPES = {"cpp": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
_DEVICES = {"cpp": "cpu", "cuda": "cuda"}


class Choice(NamedTuple):
    """A backend and why it was taken."""

    kernels: TileKernels
    reason: str


@cache
def choose_backend(wanted: BackendName, device_type: str, dtype: torch.dtype) -> Choice:
    """The kernels for logits of a device and dtype.

    `auto` takes the device's compiled kernels; without them eager, with one warning. float64, which only checks
    use, is eager.

    Raises:
        UserError: a compiled backend was asked for by name and cannot be used; the reason is in the message.
    """
    if wanted == "eager":
        return Choice(EagerKernels(), "asked for")
    name = wanted if wanted != "auto" else next((n for n, kind in _DEVICES.items() if kind == device_type), "eager")
    if name == "eager":
        loaded = Loaded(False, f"there are no compiled kernels for {device_type}")
    elif device_type != _DEVICES[name] or dtype not in _DTYPES[name]:
        takes = ", ".join(map(str, _DTYPES[name]))
        loaded = Loaded(False, f"the {name} kernels take {takes} on {_DEVICES[name]}, not {dtype} on {device_type}")
    else:
        loaded = load_cpp() if name == "cpp" else load_cuda()
    if loaded.usable:
        return Choice(CompiledKernels(name), loaded.reason)
    if wanted != "auto":
        raise UserError(f"ops.backend {wanted}: {loaded.reason}")
    if dtype != torch.float64:
        _warn(loaded.reason)
    return Choice(EagerKernels(), loaded.reason)


@cache
def _warn(reason: str) -> None:
    """Once for each reason, whatever the dtype, and by one rank of a launch."""
    if os.environ.get("RANK", "0") == "0":
        log.warning("token_stats runs in plain PyTorch, many times slower: %s", reason)

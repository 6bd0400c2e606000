"""Fused experts in 4 bits: packed when loaded, unpacked in each forward. transformers packs linear modules only.

bitsandbytes' own `replace_parameter_4bit` fixes the bytes' dtype, which DeepSpeed would cast, and leaves the scales on
the device where they were made; and peft's wrapper loses its product on such a parameter, in torch's cache of
parametrisations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from sparsepo_dist.engines.adapters.experts import matrices, wrappers


class _Unpack(nn.Module):
    """From packed bytes to the weight: the first parametrisation of a packed parameter."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    @torch.no_grad()
    def forward(self, packed: Tensor) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit

        if self.state.absmax.device != packed.device:
            self.state.to(packed.device)
        return dequantize_4bit(packed, self.state)


class _AddProduct(nn.Module):
    """weight + scaling left @ right, in one operator."""

    def __init__(self, left: Tensor, right: Tensor, scaling: float) -> None:
        super().__init__()
        self.left, self.right, self.scaling = left, right, scaling

    def forward(self, weight: Tensor) -> Tensor:
        return torch.baddbmm(weight, self.left, self.right, alpha=self.scaling)


def pack_experts(model: nn.Module, dtype: torch.dtype) -> None:
    """Put fused experts into NF4 with double quantisation, in place; bytes are stored as `dtype`."""
    from bitsandbytes.functional import quantize_4bit

    for matrix in [matrix for matrix in matrices(model) if matrix.fused]:
        name = matrix.name.rpartition(".")[2]
        packed, state = quantize_4bit(
            matrix.parameter.data.contiguous(), compress_statistics=True, quant_type="nf4", quant_storage=dtype
        )
        if not any(_packed(matrix.module)):
            _cache_in_forward(matrix.module)
        setattr(matrix.module, name, nn.Parameter(packed, requires_grad=False))
        parametrize.register_parametrization(matrix.module, name, _Unpack(state), unsafe=True)


def packed_names(model: PreTrainedModel) -> frozenset[str]:
    """Parameters that QLoRA puts into 4 bits: what transformers hands to bitsandbytes, and fused experts."""
    kept = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    return frozenset(
        matrix.name
        for matrix in matrices(model)
        if matrix.fused
        or (
            type(matrix.module) in (nn.Linear, Conv1D)
            and should_convert_module(matrix.name.removesuffix(".weight"), kept)
        )
    )


@contextmanager
def stand_ins(model: nn.Module) -> Iterator[None]:
    """While open, packed parameters look as if they were not, without their memory; adapters put on then are theirs."""
    found = [(module, name, unpack) for module in model.modules() for name, unpack in _packed(module)]
    kept = []
    for module, name, unpack in found:
        steps: Any = module.parametrizations
        kept.append(steps[name].original)
        parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        look = torch.zeros((), dtype=unpack.state.dtype, device=kept[-1].device).expand(unpack.state.shape)
        setattr(module, name, nn.Parameter(look, requires_grad=False))
    yield
    for (module, name, unpack), packed in zip(found, kept, strict=True):
        setattr(module, name, packed)
        parametrize.register_parametrization(module, name, unpack, unsafe=True)
    for wrapper in wrappers(model):
        packed_here = dict(_packed(wrapper.get_base_layer()))
        if wrapper.parameter_name in packed_here:
            _adapt(wrapper, packed_here[wrapper.parameter_name].state.dtype)


def _packed(module: nn.Module) -> list[tuple[str, _Unpack]]:
    lists = getattr(module, "parametrizations", {}).items() if parametrize.is_parametrized(module) else ()
    return [(name, steps[0]) for name, steps in lists if isinstance(steps[0], _Unpack)]


def _adapt(wrapper: Any, dtype: torch.dtype) -> None:
    """Have peft's wrapper add its product after the unpacking."""

    @contextmanager
    def activate(active: list[str]) -> Iterator[None]:
        steps = wrapper.get_base_layer().parametrizations[wrapper.parameter_name]
        adapters = [name for name in active if name in wrapper.lora_A]
        for name in adapters:
            steps.append(_AddProduct(*wrapper.get_delta_factors(name)))
        try:
            yield
        finally:
            del steps[len(steps) - len(adapters) :]

    # peft asks it for dtype and device alone, and getting the weight itself would unpack it
    wrapper.get_param = lambda: torch.empty(
        0, dtype=dtype, device=wrapper.lora_A[next(iter(wrapper.lora_A))].weight.device
    )
    wrapper._activate_lora = activate


def _cache_in_forward(module: nn.Module) -> None:
    """Unpack once a forward, however often the module looks at its weights."""

    def enter(*_: Any) -> None:
        parametrize._cache_enabled += 1

    def leave(*_: Any) -> None:
        parametrize._cache_enabled -= 1
        if not parametrize._cache_enabled:
            parametrize._cache = {}

    module.register_forward_pre_hook(enter)
    # also where recomputation for backward ends the forward early
    module.register_forward_hook(leave, always_call=True)

"""Matrices that are no linear module: fused experts, one parameter [experts, ., .] in transformers, and their routers.

peft adapts them by name (`target_parameters`): it wraps the module that holds one and adds the adapter's product to the
parameter in each forward.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sparsepo_dist.engines.composite import outside_text
from sparsepo_dist.engines.deepspeed.sharding import whole_numel, whole_shape

if TYPE_CHECKING:
    from peft.tuners.lora import ParamWrapper

_LINEAR = (nn.Linear, Conv1D)
# By the names of transformers' classes, as it tells them apart itself.
_EXPERTS, _ROUTER = "Experts", "Router"


class Matrix(NamedTuple):
    """A weight with at least two dimensions, and where it is."""

    name: str
    """Of the parameter, as the model without adapters has it."""
    module: nn.Module
    parameter: nn.Parameter

    @property
    def fused(self) -> bool:
        """Whether it holds the matrices of many experts."""
        return _EXPERTS in type(self.module).__name__

    @property
    def bytes(self) -> int:
        """Of the whole parameter, as it is stored, whatever of it is here."""
        return whole_numel(self.parameter) * self.parameter.element_size()


def matrices(model: nn.Module) -> Iterator[Matrix]:
    """Every matrix of a decoder's layers and its head, of adapters none: linear modules, experts, routers."""
    for path, module in model.named_modules():
        name, kind = path.replace(".base_layer", ""), type(module).__name__
        if ".lora_" in path:
            continue
        for key, parameter in module.named_parameters(recurse=False):
            dimensions = len(whole_shape(parameter))
            weight = key == "weight" and (isinstance(module, _LINEAR) or (_ROUTER in kind and dimensions == 2))
            if weight or (_EXPERTS in kind and dimensions == 3):
                yield Matrix(f"{name}.{key}", module, parameter)


def expert_targets(model: PreTrainedModel) -> list[str]:
    """The ends of the names of all experts and routers, as peft's `target_parameters` takes them."""
    found = (matrix for matrix in _of_text(model) if not isinstance(matrix.module, _LINEAR))
    return sorted({".".join(matrix.name.split(".")[-2:]) for matrix in found})


def left_out(model: PreTrainedModel, head: nn.Module, adapter: str) -> list[Matrix]:
    """Matrices of the text decoder, other than the head's, that an adapter does not reach."""
    from peft.tuners.lora import LoraLayer, ParamWrapper

    reached = {id(head.weight)}
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
            base = layer.get_base_layer()
            reached.add(id(getattr(base, layer.parameter_name if isinstance(layer, ParamWrapper) else "weight")))
    return [matrix for matrix in _of_text(model) if id(matrix.parameter) not in reached]


def _of_text(model: PreTrainedModel) -> Iterator[Matrix]:
    """Matrices of the text decoder of a model: other parts have no adapter."""
    outside = re.compile(outside_text(model) or "(?!)")
    return (matrix for matrix in matrices(model) if not outside.fullmatch(matrix.name.rpartition(".")[0]))


def described(found: list[Matrix], model: nn.Module) -> str:
    """Some matrices for a message: their names without the layers' numbers, MiB, and share of the model's bytes."""
    names = sorted({".".join(part for part in matrix.name.split(".") if not part.isdigit()) for matrix in found})
    size = sum(matrix.bytes for matrix in found)
    total = sum(whole_numel(p) * p.element_size() for p in model.parameters())
    return f"{', '.join(names)}: {size / 2**20:,.1f} MiB, {size / total:.0%} of the model"


def wrappers(model: nn.Module) -> list[ParamWrapper]:
    """What peft put around modules whose parameters it adapts by name; they stand in each other."""
    from peft.tuners.lora import ParamWrapper

    return [module for module in model.modules() if isinstance(module, ParamWrapper)]

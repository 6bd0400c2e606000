"""Modules that an adapter has whole copies of (`modules_to_save`): the policy's are trained, the base keeps its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from sparsepo_dist.errors import UserError

if TYPE_CHECKING:
    from peft.utils.other import ModulesToSaveWrapper


def saved_modules(model: nn.Module) -> Iterator[tuple[str, ModulesToSaveWrapper]]:
    """What peft put around modules of which an adapter has a copy, by name."""
    from peft.utils.other import ModulesToSaveWrapper

    return ((name, module) for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper))


def choose_copies(model: nn.Module, adapter: str | None, *, trained: bool) -> None:
    """Let each such module be an adapter's copy, or the base's own where that adapter has none."""
    for _, wrapper in saved_modules(model):
        if adapter is not None and adapter in wrapper.modules_to_save:
            wrapper.set_adapter(adapter)
            wrapper.enable_adapters(True)
            wrapper.modules_to_save[adapter].requires_grad_(trained)
        else:
            wrapper.enable_adapters(False)


def keep_copies(model: nn.Module, adapter: str) -> None:
    """Put an adapter's copies in the place of the base's modules, for good."""
    for name, wrapper in list(saved_modules(model)):
        parent, _, key = name.rpartition(".")
        setattr(model.get_submodule(parent), key, wrapper.modules_to_save[adapter])


def head_of(model: PreTrainedModel, adapter: str | None) -> nn.Module:
    """The LM head that a model has with an adapter, or with none."""
    head: Any = model.get_output_embeddings()
    if not hasattr(model, "peft_config") or not any(wrapper is head for _, wrapper in saved_modules(model)):
        return head
    copies: nn.ModuleDict = head.modules_to_save
    return copies[adapter] if adapter is not None and adapter in copies else head.original_module


def check_copies(model: nn.Module, field: str) -> None:
    """Raise UserError for a copy of a module that is stored in 4 bits, which nothing could be loaded into."""
    for name, wrapper in saved_modules(model):
        if any(hasattr(parameter, "quant_state") for parameter in wrapper.parameters()):
            raise UserError(
                f"{field}: it has its own {name} (modules_to_save), which qlora stores in 4 bits; say --model.adapter "
                "lora, or make one model of both with sparsepo merge"
            )

"""Write the trained model in transformers format, holding at most one full copy, on rank 0."""

from __future__ import annotations

import shutil
from pathlib import Path

import deepspeed
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsepo_dist.engines.adapters.files import save_adapter
from sparsepo_dist.engines.adapters.lora import POLICY, has_adapters
from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.engines.policy import PolicyEngine
from sparsepo_dist.files import follow_umask

MASKS = "masks.safetensors"


@torch.no_grad()
def gathered_state(module: nn.Module, *, trained_only: bool = False) -> dict[str, Tensor]:
    """Parameters and persistent buffers, whole, on the CPU of rank 0, gathered one by one; empty on other ranks.

    With `trained_only`, nothing but the parameters that are trained. Every rank must call this.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if trained_only and not parameter.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([parameter]):
            if rank() == 0:
                state[name] = parameter.detach().to("cpu", copy=True).contiguous()
    if rank() == 0 and not trained_only:
        state |= {name: value.cpu().clone() for name, value in _persistent_buffers(module)}
    return state


def saved_names(model: PreTrainedModel) -> list[str]:
    """Names of what `save_final` writes of a model: all of it, or its trained adapter."""
    if has_adapters(model):
        return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [name for name, _ in [*model.named_parameters(), *_persistent_buffers(model)]]


def write_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, state: dict[str, Tensor], folder: Path
) -> None:
    """Make a folder of a model, or of its adapter where it has one, with `state` for its tensors, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    if has_adapters(model):
        save_adapter(model, POLICY, state, folder)
    else:
        model.save_pretrained(folder, state_dict=state)
        follow_umask(folder.glob("*.safetensors"))
    tokenizer.save_pretrained(folder)


def save_final(policy: PolicyEngine, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """final/: the model, or its adapter in peft's format; tokenizer; learned masks. Every rank must call this.

    It is written aside and renamed, so that nobody finds half a model there.

    Frozen weights under an adapter are not written: `sparsepo merge` puts both together. Learned masks are used in
    training only: the model in the folder generates without them.
    """
    module = policy.module
    policy.settle()
    finished, folder = folder, folder.with_name(f".writing-{folder.name}")
    if rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    state = gathered_state(module.model, trained_only=has_adapters(module.model))
    if rank() == 0:
        write_model(module.model, tokenizer, state, folder)
    del state
    if module.masker is not None and module.masker.heads is not None:
        masks = gathered_state(module.masker.heads)
        if rank() == 0:
            save_file(masks, folder / MASKS, metadata={"format": "pt"})
            follow_umask([folder / MASKS])
    if rank() == 0:
        shutil.rmtree(finished, ignore_errors=True)
        folder.rename(finished)


def _persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    names = module.state_dict(keep_vars=True).keys()
    return [(name, value) for name, value in module.named_buffers() if name in names]

"""Write the trained model in transformers format, holding at most one full copy, on rank 0."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsepo_dist.disk import follow_umask, free_bytes, in_gib, put_in_place, remove, unwritten
from sparsepo_dist.engines.adapters.files import save_adapter
from sparsepo_dist.engines.adapters.lora import POLICY, has_adapters
from sparsepo_dist.engines.composite import copy_processor, outside_text
from sparsepo_dist.engines.deepspeed.distributed import of_rank_0, rank
from sparsepo_dist.engines.deepspeed.sharding import whole_numel
from sparsepo_dist.engines.policy import PolicyEngine
from sparsepo_dist.errors import RunError

MASKS = "masks.safetensors"
TRAINED = "trained.json"
"""Beside a model that is not the end of its run: the run's name and configuration, and the step."""


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
    if outside_text(model) is not None:
        copy_processor(model.config.name_or_path, folder)


def write_trained(trained: Mapping[str, Any], folder: Path) -> None:
    """TRAINED in a model's folder. Raises OSError where it cannot be written."""
    (folder / TRAINED).write_text(json.dumps(trained, indent=1) + "\n", encoding="utf-8")


def save_final(
    policy: PolicyEngine, tokenizer: PreTrainedTokenizerBase, folder: Path, trained: Mapping[str, Any] | None = None
) -> None:
    """final/: the model, or its adapter in peft's format; tokenizer; learned masks. Every rank must call this.

    With `trained`, the content of TRAINED, the same of a step before the end.

    It is written aside and renamed, so that nobody finds half a model there.

    Frozen weights under an adapter are not written: `sparsepo merge` puts both together. Learned masks are used in
    training only: the model in the folder generates without them.

    Raises:
        RunError: it cannot be written (on every rank); nothing is left of it.
    """
    module = policy.module
    policy.settle()
    state = gathered_state(module.model, trained_only=has_adapters(module.model))
    masks: dict[str, Tensor] = {}
    if module.masker is not None and module.masker.heads is not None:
        masks = gathered_state(module.masker.heads)
    failure = _write_final(policy, tokenizer, state, masks, folder, trained) if rank() == 0 else None
    failure = of_rank_0(failure)
    if failure is not None:
        raise RunError(f"the model could not be saved to {failure}")


def _write_final(
    policy: PolicyEngine, tokenizer: PreTrainedTokenizerBase, state: dict[str, Tensor], masks: dict[str, Tensor],
    folder: Path, trained: Mapping[str, Any] | None,
) -> str | None:  # fmt: skip
    """On rank 0: why it could not be written."""
    unfinished = folder.with_name(f".writing-{folder.name}")
    remove(unfinished)
    needed, free = final_bytes(policy), free_bytes(folder)
    if needed > free:
        return f"{folder}: it takes about {in_gib(needed)}, {in_gib(free)} are free there: make room"
    try:
        write_model(policy.module.model, tokenizer, state, unfinished)
        if masks:
            save_file(masks, unfinished / MASKS, metadata={"format": "pt"})
            follow_umask([unfinished / MASKS])
        if trained is not None:
            write_trained(trained, unfinished)
        put_in_place(unfinished, folder)
    except (OSError, SafetensorError) as error:
        remove(unfinished)
        return unwritten(error, folder.parent)
    return None


def final_bytes(policy: PolicyEngine) -> int:
    """About what `save_final` writes: weights, without what is little beside them."""
    model, masker = policy.module.model, policy.module.masker
    named = [p for p in model.parameters() if p.requires_grad or not has_adapters(model)]
    return sum(whole_numel(p) * p.element_size() for p in (*named, *(() if masker is None else masker.parameters())))


def checkpoint_bytes(policy: PolicyEngine) -> int:
    """About what a checkpoint takes: of every trained number Adam's two moments, its float32 master, and the number
    itself, but under ZeRO-3 and where it is its own master."""
    trained = [p for p in policy.module.parameters() if p.requires_grad]
    once = {3: True, 0: trained[0].element_size() == 4}.get(policy.zero_stage, False)
    return sum(whole_numel(p) * (12 if once else 12 + p.element_size()) for p in trained)


def _persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    names = module.state_dict(keep_vars=True).keys()
    return [(name, value) for name, value in module.named_buffers() if name in names]

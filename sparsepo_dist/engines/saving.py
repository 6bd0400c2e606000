"""Write the trained model in transformers format, holding at most one full copy, on rank 0."""

from __future__ import annotations

from pathlib import Path

import deepspeed
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.engines.distributed import rank
from sparsepo_dist.engines.policy import PolicyEngine


@torch.no_grad()
def gathered_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers on the CPU of rank 0, gathered one by one; empty on other ranks.

    Every rank must call this.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if rank() == 0:
                state[name] = parameter.detach().to("cpu", copy=True).contiguous()
    if rank() == 0:
        names = module.state_dict(keep_vars=True).keys()
        state |= {name: value.cpu().clone() for name, value in module.named_buffers() if name in names}
    return state


def save_final(policy: PolicyEngine, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """final/: config, safetensors, tokenizer; masks.safetensors where masks were learned. Every rank must call this.

    Learned masks are used in training only: the model in the folder generates without them.
    """
    module = policy.module
    policy.settle()
    state = gathered_state(module.model)
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        module.model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)
    del state
    if module.mask_heads is not None:
        masks = gathered_state(module.mask_heads)
        if rank() == 0:
            save_file(masks, folder / "masks.safetensors", metadata={"format": "pt"})

"""The optimizer's parameter groups: which rate and decay each parameter has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sparsepo_dist.engines.deepspeed.sharding import whole_shape
from sparsepo_dist.masks import MaskConfig, decays


def parameter_groups(
    module: nn.Module, *, learning_rate: float, weight_decay: float, betas: Sequence[float], eps: float,
    masks: MaskConfig,
) -> list[dict[str, Any]]:  # fmt: skip
    """Optimizer groups: matrices with weight decay, vectors without, masks with their own rate and decay.

    Released masks decay without biases and norms. `base_lr` is what the schedule multiplies. Empty groups are left out:
    ZeRO asserts on them.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    model = [(len(whole_shape(p)), p) for name, p in named if not name.startswith("masker.")]
    mask_lr = learning_rate if masks.learning_rate is None else masks.learning_rate
    heads = [(masks.init != "released" or decays(name), p) for name, p in named if name.startswith("masker.")]
    groups = [
        {"name": "decay", "params": [p for dims, p in model if dims > 1], "lr": learning_rate,
         "weight_decay": weight_decay},
        {"name": "no_decay", "params": [p for dims, p in model if dims <= 1], "lr": learning_rate, "weight_decay": 0.0},
        {"name": "masks", "params": [p for decay, p in heads if decay], "lr": mask_lr,
         "weight_decay": masks.weight_decay},
        {"name": "masks_no_decay", "params": [p for decay, p in heads if not decay], "lr": mask_lr,
         "weight_decay": 0.0},
    ]  # fmt: skip
    return [{**g, "base_lr": g["lr"], "betas": tuple(betas), "eps": eps} for g in groups if g["params"]]

"""The policy engine: model, mask heads and fused head in one module, sharded and stepped by DeepSpeed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs, TokenMasks, TokenStats
from sparsepo_dist.engines.backbone import backbone, hidden_at
from sparsepo_dist.engines.ds_config import zero_stage
from sparsepo_dist.engines.head import HeadStats
from sparsepo_dist.masks import MaskConfig, MaskHeads, activation_masks
from sparsepo_dist.objectives import Requirements
from sparsepo_dist.ops import Head, OpsConfig

PARAMETER_GROUPS = ("decay", "no_decay", "masks")


class PolicyModel(nn.Module):
    """Everything that is trained, and the reference's frozen head, which the divergence needs beside it."""

    def __init__(
        self,
        model: PreTrainedModel,
        requirements: Requirements,
        mask_heads: MaskHeads | None,
        reference_head: Head | None,
        ops: OpsConfig,
    ) -> None:
        super().__init__()
        self.model: PreTrainedModel = model
        self.mask_heads = mask_heads
        self.head_stats = HeadStats(model.get_output_embeddings(), reference_head, requirements.divergence, ops)

    def forward(
        self,
        batch: PackedBatch,
        final_hidden: Tensor | None,
        layer_hidden: Tensor | None,
        mask: Tensor | None,
        all_tokens: bool,
    ) -> tuple[Tensor | None, ...]:
        """(policy_logp, reference_logp, divergence, reward mask, divergence mask), [N] each or None.

        `mask` is an activation mask; learned masks are computed here. Without `all_tokens`, tokens whose masks are
        both 0 get statistics of 0 and cost no head product. A plain tuple comes back: ZeRO-3's backward hooks do not
        look inside dataclasses.
        """
        masks = (mask, mask) if self.mask_heads is None else self.mask_heads(layer_hidden)
        active = None if all_tokens or masks[0] is None else (masks[0] != 0) | (masks[1] != 0)
        hidden = hidden_at(backbone(self.model), batch)
        return (*self.head_stats(hidden, batch.labels, final_hidden, active), *masks)


class PolicyEngine:
    """The DeepSpeed engine around a PolicyModel: statistics and masks in, gradients and steps out."""

    def __init__(
        self,
        module: PolicyModel,
        groups: Sequence[dict[str, Any]],
        ds_config: dict[str, Any],
        mask_config: MaskConfig,
        site_types: Sequence[str],
    ) -> None:
        own = None if "optimizer" in ds_config else torch.optim.AdamW(list(groups))
        # With an optimizer section DeepSpeed builds it over our groups, which carry their own settings.
        self.engine, _, _, _ = deepspeed.initialize(
            model=module,
            model_parameters=list(groups) if own is None else None,
            optimizer=own,
            config=ds_config,
        )
        self.zero_stage = zero_stage(ds_config)
        if self.zero_stage == 3:
            module.head_stats.gather_with_zero3()
        self.module = module
        self._mask_config, self._site_types = mask_config, site_types

    def stats(
        self, batch: PackedBatch, reference: ReferenceOutputs | None, *, all_tokens: bool = True
    ) -> tuple[TokenStats, TokenMasks | None]:
        """Per-token statistics and masks of a micro-batch; differentiable in training mode.

        Without `all_tokens`, tokens whose masks are both 0 are skipped: they add neither loss nor gradient.
        """
        final_hidden = layer_hidden = mask = None
        if reference is not None:
            final_hidden, layer_hidden = reference.final_hidden, reference.layer_hidden
            if reference.site_means is not None:
                mask = activation_masks(
                    reference.site_means, self._site_types, batch.sequence_id, batch.pairs, self._mask_config
                )
        logp, ref_logp, v, reward, divergence = self.engine(batch, final_hidden, layer_hidden, mask, all_tokens)
        stats = TokenStats(logp, ref_logp, v, complete=all_tokens or reward is None)
        if reward is None:
            return stats, None
        return stats, TokenMasks(reward, divergence, common=mask is not None or self._mask_config.sharing == "common")

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradient to the step's; `last` ends the step's accumulation."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate_factor: float) -> float:
        """Update the parameters; the gradient norm before clipping."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate_factor
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def settle(self) -> None:
        """Finish prefetches that ZeRO-3 has under way; parameters cannot be gathered by hand before."""
        if self.zero_stage == 3:
            self.engine.empty_partition_cache()

    @property
    def learning_rate(self) -> float:
        """The policy's current learning rate."""
        return float(self.engine.optimizer.param_groups[0]["lr"])

    def train(self, mode: bool = True) -> None:
        """Training or evaluation mode."""
        self.engine.train(mode)


def parameter_groups(
    module: PolicyModel, *, learning_rate: float, weight_decay: float, betas: Sequence[float], eps: float,
    masks: MaskConfig,
) -> list[dict[str, Any]]:  # fmt: skip
    """Optimizer groups: matrices with weight decay, vectors without, masks with their own rate and decay.

    `base_lr` is what the schedule multiplies. Empty groups are left out: ZeRO asserts on them.
    """
    # Under ZeRO-3 a parameter's own shape is empty until gathered; ds_shape is the whole one.
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    model = [(len(getattr(p, "ds_shape", p.shape)), p) for name, p in named if not name.startswith("mask_heads.")]
    mask_lr = learning_rate if masks.learning_rate is None else masks.learning_rate
    groups = [
        {"name": "decay", "params": [p for dims, p in model if dims > 1], "lr": learning_rate,
         "weight_decay": weight_decay},
        {"name": "no_decay", "params": [p for dims, p in model if dims <= 1], "lr": learning_rate, "weight_decay": 0.0},
        {"name": "masks", "params": [p for name, p in named if name.startswith("mask_heads.")], "lr": mask_lr,
         "weight_decay": masks.weight_decay},
    ]  # fmt: skip
    return [{**g, "base_lr": g["lr"], "betas": tuple(betas), "eps": eps} for g in groups if g["params"]]

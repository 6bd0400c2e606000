"""The policy engine: model, masks and fused head in one module, sharded and stepped by DeepSpeed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import deepspeed
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsepo_dist.contracts import ORACLE_LOGPS, PackedBatch, ReferenceOutputs, TokenMasks, TokenStats
from sparsepo_dist.engines.adapters.lora import POLICY, as_reference
from sparsepo_dist.engines.adapters.saved_modules import head_of
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.finite import not_finite
from sparsepo_dist.engines.decoder.logits import logit_map
from sparsepo_dist.engines.decoder.router import router_loss
from sparsepo_dist.engines.deepspeed.distributed import world_size
from sparsepo_dist.engines.deepspeed.ds_config import zero_stage
from sparsepo_dist.engines.deepspeed.trace import forget_trace
from sparsepo_dist.engines.head import HeadStats
from sparsepo_dist.engines.sequence.rows import OwnRows
from sparsepo_dist.masks import BY_REWARD, LearnedMask, ReferenceReadings, TokenMasker
from sparsepo_dist.objectives import Requirements
from sparsepo_dist.ops import Head, OpsConfig


class OwnReference(NamedTuple):
    """The reference inside the policy's model (placement `adapter`)."""

    adapter: str | None
    """Name of its adapter; None where it is the model with adapters off."""
    readings: ReferenceReadings
    """What masks read off it."""


class PolicyModel(nn.Module):
    """Everything that is trained, and what of the frozen reference has to be beside it.

    Args:
        model: the policy.
        requirements: of the objective.
        masker: makes the token masks; None for objectives without.
        reference: its head, where it has an engine of its own and the objective a divergence; or the reference inside
            the policy; or None.
        ops: the fused operation's settings.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        requirements: Requirements,
        masker: TokenMasker | None,
        reference: Head | OwnReference | None,
        ops: OpsConfig,
    ) -> None:
        super().__init__()
        self.model: PreTrainedModel = model
        self.router_loss = router_loss(model)
        self.masker = masker
        self.own_reference = reference if isinstance(reference, OwnReference) else None
        head: Head | nn.Module | None = reference if isinstance(reference, Head) else None
        if self.own_reference is not None:
            head = head_of(model, self.own_reference.adapter)
        self.fused_reference = head is not None
        """Whether the reference's log-probabilities come from the same pass over the head as the policy's."""
        self.logps_first = masker is not None and bool(set(BY_REWARD) & set(masker.sources))
        """Whether masks are made of the reference's log-probabilities: those by an oracle's reward are."""
        self.head_stats = HeadStats(
            head_of(model, POLICY), logit_map(model), head, requirements.divergence, ops, requirements.squares
        )

    def forward(
        self, batch: PackedBatch, reference: ReferenceOutputs | None, all_tokens: bool, step: int, own: bool = False
    ) -> tuple[Tensor | None, ...]:
        """(policy_logp, reference_logp, divergence, log_squares, reward mask, divergence mask), [N] each, and the
        router loss []; each or None.

        Without `all_tokens`, tokens whose masks are both 0 get statistics of 0 and cost no head product. A plain tuple
        comes back: ZeRO-3's backward hooks do not look inside dataclasses. With `own`, only what the reference inside
        the policy says is computed, and its hidden states [L, N, D] for masks come back.
        """
        own_rows = OwnRows.of(batch)
        if own:
            assert self.own_reference is not None
            return (self._score_own(self.own_reference, batch, own_rows, None).layer_hidden,)
        if self.own_reference is not None and (reference is None or reference.logps is None):
            reference = self._score_own(self.own_reference, batch, own_rows, reference)
        masks, labels = None, own_rows.pick(batch.labels)
        if self.masker is not None:
            reference = self._with_logps(reference, labels)
            masks = self.masker(reference, batch, step, own_rows.whole)
        active = None if all_tokens or masks is None else own_rows.pick((masks[0] != 0) | (masks[1] != 0))
        rows = None
        if reference is not None and self.fused_reference:
            known = reference.logps is not None and self.head_stats.divergence is None
            rows = None if known else reference.final_hidden
        collecting: AbstractContextManager[list[Tensor]] = nullcontext([])
        if self.router_loss is not None:
            collecting = self.router_loss.collect(batch)
        with collecting as routed:
            hidden = hidden_at(backbone(self.model), batch, own_rows)
        logp, reference_logp, *others = self.head_stats(hidden, labels, rows, active)
        if reference is not None and reference_logp is None:
            reference_logp = reference.logps
        stats = [part if part is None else own_rows.whole(part) for part in (logp, reference_logp, *others)]
        return (*stats, *(masks or (None, None)), routed[0] if routed else None)

    @torch.no_grad()
    def _score_own(
        self, own: OwnReference, batch: PackedBatch, own_rows: OwnRows, given: ReferenceOutputs | None
    ) -> ReferenceOutputs:
        """In the engine's own forward: a second call of the engine would make ZeRO-3 trace its modules anew."""
        with as_reference(self.model, own.adapter), own.readings.collect(own_rows.index) as collected:
            final = hidden_at(backbone(self.model), batch, own_rows)
        known = {} if given is None else {name: getattr(given, name) for name in ORACLE_LOGPS.values()}
        return dataclasses.replace(collected.outputs(final), **known)

    @torch.no_grad()
    def _with_logps(self, reference: ReferenceOutputs | None, labels: Tensor) -> ReferenceOutputs | None:
        """What masks are made of: with log-probabilities that the pass over both heads would only give after them."""
        if reference is None or not self.logps_first or reference.logps is not None:
            return reference
        logps = self.head_stats(None, labels, reference.final_hidden, None)[1]
        return dataclasses.replace(reference, logps=logps)


class PolicyEngine:
    """The DeepSpeed engine around a PolicyModel: statistics and masks in, gradients and steps out."""

    def __init__(self, module: PolicyModel, groups: Sequence[dict[str, Any]], ds_config: dict[str, Any]) -> None:
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
        if self.zero_stage == 0 and world_size() == 1:
            # DeepSpeed would copy all gradients into one buffer, reduce it over nobody, and copy them back.
            self.engine.enable_backward_allreduce = False
        self.module = module

    def stats(
        self, batch: PackedBatch, reference: ReferenceOutputs | None, *, all_tokens: bool = True
    ) -> tuple[TokenStats, TokenMasks | None]:
        """Statistics and masks of a micro-batch's N response tokens; differentiable in training mode.

        Without `all_tokens`, tokens whose masks are both 0 are skipped: they add neither loss nor gradient.
        """
        logp, ref_logp, v, log_squares, reward, divergence, routed = self.engine(
            batch, reference, all_tokens, self.engine.global_steps
        )
        complete = all_tokens or reward is None
        stats = TokenStats(logp, ref_logp, v, complete, log_squares, routed)
        masker = self.module.masker
        return stats, None if masker is None else TokenMasks(
            reward, divergence, common=masker.common, floor=masker.floor
        )

    @torch.no_grad()
    def own_hidden(self, batch: PackedBatch) -> Tensor:
        """[L, N, D]: what learned masks read off the reference inside the policy. Every rank must call this."""
        try:
            hidden: Tensor = self.engine(batch, None, True, self.engine.global_steps, True)[0]
        finally:
            forget_trace(self.engine)
        return hidden

    @contextmanager
    def whole_masks(self, *, change: bool = False) -> Iterator[dict[str, LearnedMask]]:
        """The heads of learned masks by name, whole on every rank while this is open; there may be none.

        Args:
            change: they may be changed in place, alike on every rank, and the optimizer then starts from what they are.
                Only before the first step: its copies of all other parameters are made anew, too.
        """
        masker = self.module.masker
        heads = {} if masker is None or masker.heads is None else masker.heads.named_heads()
        self.settle()
        parameters = [parameter for head in heads.values() for parameter in head.parameters()]
        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if change else None):
            yield heads
        # A plain optimizer steps the parameters themselves.
        refresh = getattr(self.engine.optimizer, "refresh_fp32_params", None)
        if change and refresh is not None:
            refresh()

    @contextmanager
    def model_alone(self, *, reference: bool = False) -> Iterator[PreTrainedModel]:
        """The model, or the reference inside it, to be called by itself while this is open; not in training mode.

        Every rank must open it, and call it equally often: parameters that are sharded are gathered as it runs.
        """
        own = self.module.own_reference
        assert own is not None or not reference
        try:
            with nullcontext() if own is None or not reference else as_reference(self.module.model, own.adapter):
                yield self.module.model
        finally:
            forget_trace(self.engine)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a micro-batch's `loss` [] to the step's; `last` ends the step's accumulation."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate_factor: float) -> float:
        """Update the parameters; the gradient norm before clipping.

        A step whose gradient is not finite changes nothing, and its norm is not finite either.
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate_factor
        # A plain optimizer under ZeRO-0 leaves no norm behind; its gradients are whole, and gone after the step.
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        own_norm = torch.nn.utils.get_total_norm(gradients if self.zero_stage == 0 else [])
        if not own_norm.isfinite():
            # With an optimizer wrapper of its own DeepSpeed does the same.
            self.engine.zero_grad()
            self.engine.global_steps += 1
            return float(own_norm)
        self.engine.step()
        norm: Any = self.engine.get_global_grad_norm()
        return float(own_norm if norm is None else norm)

    def finite(self) -> bool:
        """Whether all that this rank holds of the trained parameters is finite."""
        return not not_finite((name, p) for name, p in self.module.named_parameters() if p.requires_grad)

    def settle(self) -> None:
        """Finish prefetches that ZeRO-3 has under way; parameters cannot be gathered by hand before."""
        if self.zero_stage == 3:
            self.engine.empty_partition_cache()

    @property
    def seeks_loss_scale(self) -> bool:
        """Whether fp16's loss scale follows overflows, which are then no fault of the data."""
        return bool(getattr(self.engine.optimizer, "dynamic_loss_scale", False))

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device(self.engine.device)

    @property
    def learning_rate(self) -> float:
        """The policy's current learning rate."""
        return float(self.engine.optimizer.param_groups[0]["lr"])

    def train(self, mode: bool = True) -> None:
        """Training or evaluation mode."""
        self.engine.train(mode)

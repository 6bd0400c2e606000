"""The co-located inference engine: a frozen model that scores batches, wherever its parameters rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs
from sparsepo_dist.engines.config import Placement
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.logits import logit_map
from sparsepo_dist.engines.deepspeed.distributed import world_size
from sparsepo_dist.engines.deepspeed.trace import forget_trace
from sparsepo_dist.engines.head import HeadStats
from sparsepo_dist.engines.sequence.rows import OwnRows
from sparsepo_dist.masks import MaskConfig, MaskSources, ReferenceReadings
from sparsepo_dist.ops import Head, LogitMap, OpsConfig


class _Scorer(nn.Module):
    """Hidden rows of a decoder and, with its head, log-probabilities."""

    def __init__(self, model: PreTrainedModel, map: LogitMap, ops: OpsConfig | None) -> None:
        super().__init__()
        self.base = backbone(model)
        self.lm_head = None if ops is None else model.get_output_embeddings()
        self.head_stats = None
        if ops is not None:
            self.head_stats = HeadStats(model.get_output_embeddings(), map, None, None, ops)

    def forward(self, batch: PackedBatch, own_rows: OwnRows) -> tuple[Tensor, Tensor | None]:
        hidden, labels = hidden_at(self.base, batch, own_rows), own_rows.pick(batch.labels)
        return hidden, None if self.head_stats is None else self.head_stats(hidden, labels, None, None)[0]


def lends_head(placement: Placement | None, stage: int) -> bool:
    """Whether a head that leaves the reference for the policy's engine is the very tensor, not a copy: the reference
    has it whole, and the policy's ZeRO stage leaves frozen parameters as they are."""
    return placement == "replicated" and stage < 3


class ReferenceEngine:
    """Scores batches with frozen parameters: hidden rows, log-probabilities, what masks read; never logits.

    Args:
        model: the reference, or an oracle; loaded under zero.Init where it is sharded.
        ds_config: ZeRO-3 without optimizer; None for `replicated`.
        sources: what masks are made from; none for no masks.
        head_leaves: whether the head goes to the policy's engine (`take_head`), for a divergence; otherwise it stays
            here and gives log-probabilities.
        head_is_lent: as `lends_head` has it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        placement: Placement,
        ds_config: dict[str, Any] | None,
        *,
        sources: MaskSources,
        masks: MaskConfig,
        head_leaves: bool,
        head_is_lent: bool = False,
        ops: OpsConfig,
        device: torch.device,
    ) -> None:
        model.requires_grad_(False)
        head, map = model.get_output_embeddings(), logit_map(model)
        self.readings = ReferenceReadings(backbone(model), head, map, sources, masks)
        scorer = _Scorer(model, map, None if head_leaves else ops).eval()
        self._module: Any = scorer
        self.model: PreTrainedModel | None = model
        """Until it is released: with its head, wherever that goes."""
        self.gathers = placement == "offload" or (placement == "sharded" and world_size() > 1)
        """Whether a pass brings weights here from elsewhere."""
        if placement == "replicated":
            scorer.to(device)
        self._head = _frozen_head(model, map, lent=head_is_lent) if head_leaves else None
        """Until it is taken: the whole head, on every rank."""
        if placement == "replicated":
            return
        self._module = deepspeed.initialize(model=scorer, config=ds_config)[0]
        self._module.eval()
        if scorer.head_stats is not None:
            scorer.head_stats.gather_with_zero3()

    def take_head(self) -> Head | None:
        """The whole head, [V, D], once, if it leaves: the policy's engine may shard it, which a copy kept here would
        make pointless."""
        head, self._head = self._head, None
        return head

    @contextmanager
    def model_alone(self) -> Iterator[PreTrainedModel]:
        """The whole model, before it is released, to be called by itself while this is open.

        Every rank must open it, and call it equally often: parameters that are sharded are gathered as it runs.
        """
        assert self.model is not None
        model, head = self.model, self.model.get_output_embeddings()
        if isinstance(self._module, _Scorer):
            head.to(model.get_input_embeddings().weight.device)
            yield model
            return
        try:
            with nullcontext() if self._module.module.lm_head is not None else gathered_as_it_runs(head):
                yield model
        finally:
            forget_trace(self._module)

    def release_model(self) -> None:
        """Keep only what scores: a head that has left for the policy's engine is not held twice."""
        self.model = None

    @torch.no_grad()
    def score(self, batch: PackedBatch) -> ReferenceOutputs:
        """Hidden rows [N, D] and log-probabilities [N] of a batch; hooks are on the model only while this runs. Every
        rank that shares the batch must call this, and gets its own rows.

        Raises:
            UserError: masks read an activation that the forward pass did not come by.
        """
        own_rows = OwnRows.of(batch)
        with self.readings.collect(own_rows.index) as collected:
            final, logps = self._module(batch, own_rows)
        return collected.outputs(final, logps)


@contextmanager
def gathered_as_it_runs(module: nn.Module) -> Iterator[None]:
    """While open, a module whose parameters are sharded, but which is in no engine, has them whole as it runs."""
    gathering = ExitStack()

    def gather(*_: Any) -> None:
        gathering.enter_context(deepspeed.zero.GatheredParameters(list(module.parameters())))

    handles = [module.register_forward_pre_hook(gather), module.register_forward_hook(lambda *_: gathering.close())]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _frozen_head(model: PreTrainedModel, map: LogitMap, *, lent: bool) -> Head:
    """The whole head on every rank: the model's own tensors, or copies."""
    head = model.get_output_embeddings()
    parameters = [p for p in (head.weight, head.bias) if p is not None]
    with deepspeed.zero.GatheredParameters(parameters):
        whole = [p.detach() if lent else p.detach().clone() for p in parameters]
    return Head(whole[0], whole[1] if len(whole) > 1 else None, map)

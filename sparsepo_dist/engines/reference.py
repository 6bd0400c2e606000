"""The co-located inference engine: a frozen reference that scores batches, wherever its parameters rest."""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs
from sparsepo_dist.engines.backbone import backbone, hidden_at
from sparsepo_dist.engines.config import Placement
from sparsepo_dist.masks import MaskConfig
from sparsepo_dist.masks.hooks import hidden_rows, site_means
from sparsepo_dist.masks.sites import activation_sites, decoder_blocks
from sparsepo_dist.objectives import Requirements
from sparsepo_dist.ops import Head


class _Backbone(nn.Module):
    """The reference without its head: nothing but hidden rows leaves it."""

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__()
        self.base = base

    def forward(self, batch: PackedBatch) -> Tensor:
        return hidden_at(self.base, batch)


class ReferenceEngine:
    """Scores batches with frozen parameters: hidden rows and what the masks in use need, never logits.

    Args:
        model: the reference, loaded under zero.Init where it is sharded.
        ds_config: ZeRO-3 without optimizer; None for `replicated`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        placement: Placement,
        ds_config: dict[str, Any] | None,
        requirements: Requirements,
        masks: MaskConfig,
        device: torch.device,
    ) -> None:
        model.requires_grad_(False)
        self._head: Head | None = _frozen_head(model)
        base = backbone(model)
        self.width: int = base.get_input_embeddings().embedding_dim
        self.layers: int = base.config.num_hidden_layers
        self._sites = activation_sites(base, self.layers) if requirements.masks == "activation" else []
        self._blocks = []
        if requirements.masks == "learned":
            # The last layer's states are taken after the final norm, as transformers' hidden_states[1:] has them.
            self._blocks = list(decoder_blocks(base, self.layers))[:-1] if masks.layers == "all" else []
        self._learned = requirements.masks == "learned"
        self._module: Any = _Backbone(base).eval()
        if placement == "replicated":
            self._module.to(device)
        else:
            self._module = deepspeed.initialize(model=self._module, config=ds_config)[0]
            self._module.eval()

    def take_head(self) -> Head:
        """The whole head, once: the policy's engine shards it, which a copy kept here would make pointless."""
        head, self._head = self._head, None
        assert head is not None, "the reference's head was taken before"
        return head

    @property
    def site_types(self) -> list[str]:
        """Type of each hooked site, in the order of ReferenceOutputs.site_means."""
        return [site.kind for site in self._sites]

    @torch.no_grad()
    def score(self, batch: PackedBatch) -> ReferenceOutputs:
        """Hidden rows of a batch; hooks are on the model only while this runs."""
        with (
            hidden_rows(self._blocks, batch.predict_index) as rows,
            site_means([site.module for site in self._sites], batch.predict_index) as means,
        ):
            final = self._module(batch)
        layers = torch.stack([*(rows[i] for i in range(len(self._blocks))), final]) if self._learned else None
        sites = torch.stack([means[i] for i in range(len(self._sites))]) if self._sites else None
        return ReferenceOutputs(final, layers, sites)


@torch.no_grad()
def _frozen_head(model: PreTrainedModel) -> Head:
    """A whole copy of the head on every rank, from which the policy's engine makes its own shards."""
    head = model.get_output_embeddings()
    parameters = [p for p in (head.weight, head.bias) if p is not None]
    with deepspeed.zero.GatheredParameters(parameters):
        copies = [p.detach().clone() for p in parameters]
    return Head(copies[0], copies[1] if len(copies) > 1 else None)

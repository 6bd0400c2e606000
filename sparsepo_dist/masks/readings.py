"""What the mask in use reads off the reference while it runs, wherever the reference lives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import deepspeed
import torch
from torch import Tensor, nn

from sparsepo_dist.contracts import ReferenceOutputs
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks.config import MaskConfig
from sparsepo_dist.masks.decoder import decoder_blocks
from sparsepo_dist.masks.hooks import HiddenStack, Site, hidden_rows, site_means
from sparsepo_dist.masks.sites import activation_sites
from sparsepo_dist.masks.sources import MaskSources
from sparsepo_dist.ops import LogitMap


class Readings(Protocol):
    """What a masker must know of a reference."""

    @property
    def layers(self) -> int:
        """L of the whole model."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def site_types(self) -> list[str]:
        """Type of each activation, in the order of ReferenceOutputs.site_means."""


class ReferenceReadings:
    """Hooks on a reference's modules, there only while `collect` is open; no parameters of its own.

    Args:
        base: the decoder under the head, adapters injected if it has any.
        head: its LM head. Every rank must construct this at once: its weight may be sharded.
        map: what it does to the head's products.
        sources: what masks are made from; without any nothing is read.

    Raises:
        UserError: a part of the decoder that is to be read is not recognised, or the mean logit cannot be read.
    """

    def __init__(
        self, base: nn.Module, head: nn.Module, map: LogitMap, sources: MaskSources, config: MaskConfig
    ) -> None:
        model: Any = base
        self.layers: int = model.config.num_hidden_layers
        self.width: int = model.get_input_embeddings().embedding_dim
        self.hidden_layers = 0
        """How many layers' hidden states are kept."""
        self.blocks: list[nn.Module] = []
        self.sites: list[Site] = []
        self.final_norm = False
        """Whether the final norm's output is a site."""
        self.sigmoid = config.normalisation == "sigmoid"
        self.mean_head: tuple[Tensor, Tensor] | None = None
        if "learned" in sources and config.layers == "last":
            self.hidden_layers = 1
        elif "learned" in sources:
            # The last layer's states are taken after the final norm, as transformers' hidden_states[1:] has them.
            self.hidden_layers = self.layers
            self.blocks = list(decoder_blocks(base, "masks.layers: last reads only what the head reads"))[:-1]
        if "activation" in sources:
            self.sites = activation_sites(base, config)
            types = [name for name in config.read_types if name not in config.site_patterns]
            self.final_norm = config.sites == "released" and "residual" in types
            self.mean_head = mean_over_vocabulary(head, map) if "logits" in types else None

    @property
    def site_types(self) -> list[str]:
        """Type of each activation, in the order of ReferenceOutputs.site_means."""
        types = [site.kind for site in self.sites for _ in range(site.parts)]
        return types + ["residual"] * self.final_norm + ["logits"] * (self.mean_head is not None)

    @contextmanager
    def collect(self, predict_index: Tensor) -> Iterator[Collected]:
        """While open, one forward pass of the reference, without gradient, is read at the rows `predict_index` [N].

        Raises:
            UserError: as `site_means`.
        """
        with (
            hidden_rows(self.blocks, predict_index, self.hidden_layers) as hidden,
            site_means(self.sites, predict_index, sigmoid=self.sigmoid) as means,
        ):
            yield Collected(self, hidden, means)


class Collected:
    """What one forward pass left."""

    def __init__(self, readings: ReferenceReadings, hidden: HiddenStack, means: dict[int, Tensor]) -> None:
        self._readings, self._hidden, self._means = readings, hidden, means

    def outputs(self, final_hidden: Tensor, logps: Tensor | None = None) -> ReferenceOutputs:
        """The reference's outputs, `final_hidden` [N, D] being its rows after the final norm, `logps` [N] in nats.

        Raises:
            UserError: the forward pass did not come by a site.
        """
        layers = None
        if self._readings.hidden_layers == 1:
            layers = final_hidden.unsqueeze(0)
        elif self._readings.hidden_layers:
            self._hidden.put_rows(self._readings.hidden_layers - 1, final_hidden)
            layers = self._hidden.result()
        return ReferenceOutputs(final_hidden, logps, layers, self._site_means(final_hidden))

    def check(self) -> None:
        """Raise UserError for a site that the forward pass did not come by."""
        for index, site in enumerate(self._readings.sites):
            if index not in self._means:
                raise UserError(f"masks: {site.name} takes no part in the model's forward pass")

    def _site_means(self, final_hidden: Tensor) -> Tensor | None:
        readings = self._readings
        self.check()
        rows = [self._means[index] for index in range(len(readings.sites))]
        if readings.final_norm:
            features = final_hidden.float()
            rows.append((features.sigmoid() if readings.sigmoid else features).mean(-1).unsqueeze(0))
        if readings.mean_head is not None:
            weight, bias = (part.to(final_hidden.device) for part in readings.mean_head)
            rows.append((final_hidden.float() @ weight + bias).unsqueeze(0))
        return torch.cat(rows) if rows else None


@torch.no_grad()
def mean_over_vocabulary(head: Any, map: LogitMap) -> tuple[Tensor, Tensor]:
    """Means over the vocabulary of an LM head's scaled weight, [D], and bias, []: what the mean logit is linear in.

    Raises:
        UserError: the logits are capped.
    """
    if map.cap < math.inf:
        raise UserError(
            f"masks.site_types: the reference caps its logits at {map.cap:g}, and their mean does not follow from the "
            "head's; leave logits out (--masks.site_types '[mlp, attention, residual]')"
        )
    parameters = [part for part in (head.weight, head.bias) if part is not None]
    with deepspeed.zero.GatheredParameters(parameters):
        weight = head.weight.mean(0, dtype=torch.float32)
        bias = weight.new_zeros(()) if head.bias is None else head.bias.mean(dtype=torch.float32)
    return weight * map.scale, bias * map.scale

"""What the masks room is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparsepo_dist.errors import UserError


@dataclass
class MaskConfig:
    """Token masks of sparsepo (learned) and mapo (activations); other objectives have none."""

    sharing: Literal["common", "independent"] = "independent"
    """Learned: `common` uses one mask for reward and divergence, `independent` learns two."""
    layers: Literal["all", "last"] = "all"
    """Learned: hidden states of which layers of the reference; the embedding output is not a layer."""
    layer_norm: bool = False
    """Learned: one LayerNorm shared by all layers before the per-layer linear (released implementation)."""
    dropout: float = 0.0
    """Learned: dropout after each ReLU (released implementation: 0.01)."""
    learning_rate: float | None = None
    """Learned: learning rate of the mask parameters; the policy's where not given."""
    weight_decay: float = 0.01
    """Learned: weight decay of the mask parameters."""
    normalisation: Literal["standardise", "rescale"] = "standardise"
    """Activation: `standardise` averages standardised activations (the paper; may be negative); `rescale` maps
    each to [0, 1] over its response and averages within site types first (released implementation)."""

    def validate(self) -> None:
        """Raise UserError for values that cannot work."""
        if not 0 <= self.dropout < 1:
            raise UserError(f"masks.dropout: {self.dropout} must be in [0, 1)")
        for name in ("learning_rate", "weight_decay"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"masks.{name}: {getattr(self, name)} must not be negative")

"""Token masks: learned from the reference's hidden states, or read off its activations."""

from sparsepo_dist.masks.activation import activation_masks
from sparsepo_dist.masks.config import MaskConfig
from sparsepo_dist.masks.learned import MaskHeads

__all__ = ["MaskConfig", "MaskHeads", "activation_masks"]

"""Token masks: learned from the reference's hidden states, read off its activations, selected by an oracle, random."""

from sparsepo_dist.masks.activation import activation_masks
from sparsepo_dist.masks.config import MaskConfig, MaskKind, resolve_kind, unused_options
from sparsepo_dist.masks.learned import LearnedMask, MaskHeads, decays
from sparsepo_dist.masks.masker import MaskPair, TokenMasker
from sparsepo_dist.masks.readings import Readings, ReferenceReadings

__all__ = [
    "LearnedMask",
    "MaskConfig",
    "MaskHeads",
    "MaskKind",
    "MaskPair",
    "Readings",
    "ReferenceReadings",
    "TokenMasker",
    "activation_masks",
    "decays",
    "resolve_kind",
    "unused_options",
]

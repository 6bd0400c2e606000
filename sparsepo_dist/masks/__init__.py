"""Token masks: learned from the reference's hidden states, read off its activations, selected by an oracle, random."""

from sparsepo_dist.masks.activation import activation_masks
from sparsepo_dist.masks.config import MaskConfig, MaskKind
from sparsepo_dist.masks.learned import LearnedMask, MaskHeads, decays
from sparsepo_dist.masks.masker import MaskPair, TokenMasker
from sparsepo_dist.masks.readings import Readings, ReferenceReadings
from sparsepo_dist.masks.sources import OF_REFERENCE, MaskSources, resolve_sources, unused_options

__all__ = [
    "OF_REFERENCE",
    "LearnedMask",
    "MaskConfig",
    "MaskHeads",
    "MaskKind",
    "MaskPair",
    "MaskSources",
    "Readings",
    "ReferenceReadings",
    "TokenMasker",
    "activation_masks",
    "decays",
    "resolve_sources",
    "unused_options",
]

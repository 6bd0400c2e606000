"""Token masks: learned from the reference's hidden states, read off its activations, by oracles, by place, random."""

from typing import TYPE_CHECKING

from sparsepo_dist.exports import on_demand

if TYPE_CHECKING:
    from sparsepo_dist.masks.activation import activation_masks
    from sparsepo_dist.masks.config import MaskConfig, MaskKind
    from sparsepo_dist.masks.learned import LearnedMask, MaskHeads, decays
    from sparsepo_dist.masks.masker import MaskPair, TokenMasker
    from sparsepo_dist.masks.readings import Readings, ReferenceReadings
    from sparsepo_dist.masks.sources import (
        AGAINST,
        BY_REWARD,
        OF_ORACLE,
        OF_REFERENCE,
        MaskSources,
        oracles_of,
        resolve_sources,
        unused_options,
    )
else:
    __getattr__ = on_demand(
        __name__,
        {
            "activation": "activation_masks",
            "config": "MaskConfig MaskKind",
            "learned": "LearnedMask MaskHeads decays",
            "masker": "MaskPair TokenMasker",
            "readings": "Readings ReferenceReadings",
            "sources": "AGAINST BY_REWARD OF_ORACLE OF_REFERENCE MaskSources oracles_of resolve_sources unused_options",
        },
    )

__all__ = [
    "AGAINST",
    "BY_REWARD",
    "OF_ORACLE",
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
    "oracles_of",
    "resolve_sources",
    "unused_options",
]

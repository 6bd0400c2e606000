"""SmolLM2-135M, which benchmarks measure where they are told no other folder of it."""

from __future__ import annotations

from pathlib import Path


def given_or_made(folder: Path | None) -> Path:
    """The given folder; where none is, that of the model that the demo makes."""
    if folder is not None:
        return folder
    from sparsepo_dist.builtin.smollm2 import smollm2_folder  # transformers, which a given folder does not need

    return smollm2_folder()

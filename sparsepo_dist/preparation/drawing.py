"""What a preparation samples from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sparsepo_dist.builtin.smollm2 import smollm2_folder
from sparsepo_dist.evaluation.target import Target, target
from sparsepo_dist.preparation.work import Portion
from sparsepo_dist.runs.inputs import BUILTIN_MODEL
from sparsepo_dist.sampling.backends import load_sampler
from sparsepo_dist.sampling.responses import Nucleus, Sample
from sparsepo_dist.sampling.sampler import Sampler


@dataclass(frozen=True)
class Drawing:
    """How texts are continued by a model, which is loaded with the first of them."""

    model: Target
    backend: str
    count: int
    """Samples of each prompt."""
    nucleus: Nucleus
    batch_size: int
    """Samples drawn at once."""
    seed: int

    def samples(self, portion: Portion[Any], prompts: Sequence[str], name: str, things: str) -> list[Sample]:
        """All samples of a portion's prompts, in their order.

        Args:
            name: of what the portion is a part of.
            things: what is drawn, for progress.

        Raises:
            UserError: the model cannot be loaded, or prompt and response exceed its positions.
            RunError: vLLM fails.
        """
        return self._sampler.sample(
            prompts, self.count, seed=portion.seed(self.seed, name), settings=self.nucleus, batch_size=self.batch_size,
            description=f"{name} {things}, {portion.said}",
        )  # fmt: skip

    @cached_property
    def _sampler(self) -> Sampler:
        return load_sampler(self.backend, self.model.model, self.model.adapter)


def named_model(path: str) -> Target:
    """What `--model` names, `builtin:` models included. Raises UserError as `target`."""
    return Target(path, str(smollm2_folder())) if path == BUILTIN_MODEL else target(path)


def model_record(path: str, model: Target) -> dict[str, Any]:
    """A model as a card names it, and what it is."""
    return {"model": path, "sha256": model.sha256}

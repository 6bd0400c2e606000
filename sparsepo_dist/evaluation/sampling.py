"""How a driver samples from each model: what its options say of it, and what its results are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsepo_dist.evaluation.prompts import digest
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.sampling.backends import TRANSFORMERS, backend_settings, load_sampler
from sparsepo_dist.sampling.responses import Nucleus, Sample

if TYPE_CHECKING:  # it brings the hub's client, which drivers must not import before they know whether to ask a hub
    from sparsepo_dist.sampling.sampler import Sampler


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn at any temperature."""

    samples: int
    """Of each prompt."""
    top_p: float
    max_new_tokens: int
    """Tokens of a response, at most."""
    max_prompt_length: int
    """Tokens; a longer prompt loses its beginning."""
    seed: int
    batch_size: int
    """Samples drawn at once."""
    backend: str = TRANSFORMERS

    def draw(self, sampler: Sampler, prompts: Sequence[str], temperature: float, description: str) -> list[Sample]:
        """The samples of all prompts, in order.

        Raises:
            UserError: prompt and response would exceed the model's positions.
            RunError: vLLM leaves out the tokens that end responses.
        """
        nucleus = Nucleus(temperature, self.top_p, self.max_new_tokens, self.max_prompt_length)
        return sampler.sample(
            prompts, self.samples, seed=self.seed, settings=nucleus, batch_size=self.batch_size, description=description
        )

    def settings(self, prompts: Sequence[str]) -> dict[str, Any]:
        """What decides the samples besides model, temperature and machine."""
        return {
            "prompts": digest(prompts), "prompt_count": len(prompts), "samples": self.samples, "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens, "max_prompt_length": self.max_prompt_length, "seed": self.seed,
            **backend_settings(self.backend, self.batch_size),
        }  # fmt: skip

    def kept(self, results: Results, target: Target, prompts: Sequence[str], temperature: float) -> list[Sample]:
        """The samples of a model that are among its results, drawn and put there if they are not yet.

        Raises:
            UserError: as `draw`, the model cannot be loaded, or the results are of other settings.
            RunError: vLLM fails.
        """
        found = results.finished("samples")
        if found is None:
            sampler = load_sampler(self.backend, target.model, target.adapter)
            drawn = self.draw(sampler, prompts, temperature, f"sampling {target.name}")
            results.write("samples", [sample._asdict() for sample in drawn])
            return drawn
        return [
            Sample(s["prompt"], s["response"], tuple(s["prompt_ids"]), tuple(s["response_ids"])) for s in found
        ]  # fmt: skip

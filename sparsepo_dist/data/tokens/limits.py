"""What a run's lengths leave of a pair, told of lengths alone: of one pair's numbers, or of arrays over many pairs."""

from __future__ import annotations

from typing import Any, NamedTuple

from sparsepo_dist.data.config import DataConfig

Lengths = Any
"""A number of tokens, or an int64 array of such."""


class Limits(NamedTuple):
    """Most tokens."""

    prompt: int
    """Of a prompt."""
    whole: int
    """Of a prompt and one response."""

    @classmethod
    def of(cls, config: DataConfig) -> Limits:
        """Those of a run."""
        return cls(config.max_prompt_length, config.max_length)

    def fit(self, prompt: Lengths, response: Lengths) -> Any:
        """Whether nothing has to be cut of a prompt and a response, or the longest of its responses."""
        return (prompt <= self.prompt) & (prompt + response <= self.whole)

    def kept(self, prompt: Lengths) -> Lengths:
        """Tokens that are left of a prompt."""
        return prompt - (prompt > self.prompt) * (prompt - self.prompt)  # of whole numbers and of arrays alike

    def room(self, prompt: Lengths) -> Lengths:
        """Tokens that a response may have behind a prompt, which is cut; below 1 there is none."""
        return self.whole - self.kept(prompt)

"""What a run's lengths leave of a pair, told of lengths alone: of one pair's numbers, or of arrays over many pairs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

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
        return np.minimum(prompt, self.prompt)

    def room(self, prompt: Lengths) -> Lengths:
        """Tokens that a response may have behind a prompt, which is cut; below 1 there is none."""
        return self.whole - self.kept(prompt)

    def alike(self, prompt: Lengths, chosen: Lengths, rejected: Lengths, shared: Lengths) -> Any:
        """Whether two responses that begin with so many `shared` tokens are cut to the same ones."""
        left = np.minimum(chosen, self.room(prompt))
        return (left == np.minimum(rejected, self.room(prompt))) & (shared >= left)

    def untrained(self, prompt: Lengths, first: Lengths) -> Any:
        """Whether the cut leaves nothing that is trained on of a response, by the first such token."""
        return first >= self.room(prompt)

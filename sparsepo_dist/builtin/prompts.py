"""Prefixes that could go either way, of the project's own writing: 5 to 8 tokens of SmolLM2's tokenizer."""

from __future__ import annotations

from typing import NamedTuple

# Openings and subjects are combined, so that whole subjects can be held out: an unseen prompt is about something new.
OPENINGS = (
    "I just finished the {}",
    "Honestly, the {} was",
    "After a week, the {}",
    "My friends said the {}",
    "We waited months for the {}",
    "To be fair, the {}",
    "Looking back, the {} felt",
    "Nobody told me the {}",
    "The best way to describe the {}",
    "What surprised me about the {}",
    "For the price, the {}",
    "When we arrived, the {}",
    "By the end, the {} had",
    "If you are considering the {}",
)
SUBJECTS = (
    "movie", "novel", "hotel", "concert", "dinner", "museum", "phone", "laptop", "game", "course",
    "flight", "bakery", "podcast", "album", "hike", "play", "apartment", "garden", "camera", "train",
    "lecture", "festival", "coffee", "school",
)  # fmt: skip
UNSEEN_SUBJECTS = ("series", "restaurant", "trip", "book")
HELDOUT_SUBJECTS = ("beach", "market")


class Drawn(NamedTuple):
    """How much is sampled to see what a model is worth."""

    prompts: int
    samples: int
    """Of each prompt."""
    seed: int


UNSEEN = Drawn(prompts=32, samples=4, seed=1)
"""What both models are compared on."""


def training_prompts(count: int | None) -> list[str]:
    """`count` prompts (None: all), spread evenly over openings and subjects."""
    return _spread(SUBJECTS)[:count]


def heldout_prompts(count: int | None) -> list[str]:
    """Prompts of the held-out pairs (None: all), about subjects that neither training nor evaluation has."""
    return _spread(HELDOUT_SUBJECTS)[:count]


def unseen_prompts(count: int | None) -> list[str]:
    """Prompts of the evaluation (None: all), about subjects that training never saw."""
    return _spread(UNSEEN_SUBJECTS)[:count]


def all_prompts() -> list[str]:
    """Every prompt of the project."""
    return [p for subjects in (SUBJECTS, HELDOUT_SUBJECTS, UNSEEN_SUBJECTS) for p in _spread(subjects)]


def _spread(subjects: tuple[str, ...]) -> list[str]:
    """Every combination, walked along diagonals: any beginning of the list mixes openings and subjects."""
    return [
        OPENINGS[i % len(OPENINGS)].format(subjects[(i + shift) % len(subjects)])
        for shift in range(len(subjects))
        for i in range(len(OPENINGS))
    ]

"""Completions of prefixes, drawn and scored in portions that outlive a kill."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sparsepo_dist.builtin.ranking import Scored
from sparsepo_dist.errors import RunError, shortened
from sparsepo_dist.evaluation.frontier.classifiers import Exchange
from sparsepo_dist.evaluation.frontier.scorers import Scorer
from sparsepo_dist.preparation.drawing import Drawing
from sparsepo_dist.preparation.work import Portion, Work
from sparsepo_dist.sampling.responses import Sample

_PROMPTS, _SAMPLES = 128, 4096
"""Of a portion that is drawn, and of one that is scored."""


def drawn(work: Work, drawing: Drawing, prompts: Mapping[str, Sequence[str]]) -> dict[str, list[Sample]]:
    """All completions of the prompts of each name, in their order. The model is loaded where any are missing.

    Raises:
        UserError: the model cannot be loaded, or prompt and completion exceed its positions.
        RunError: vLLM fails.
    """

    def make(name: str, portion: Portion[str]) -> Iterable[dict[str, Any]]:
        return (sample._asdict() for sample in drawing.samples(portion, portion.items, name, "completions"))

    return {
        name: list(map(_sample, work.in_portions(f"samples-{name}", texts, _PROMPTS, partial(make, name))))
        for name, texts in prompts.items()
    }


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(row["prompt"], row["response"], tuple(row["prompt_ids"]), tuple(row["response_ids"]))


def scored(work: Work, name: str, samples: Sequence[Sample], scorer: Scorer) -> list[Scored]:
    """Completions with their scores, in their order."""
    found = scores(work, name, samples, scorer)
    return [Scored(sample.prompt, sample.response, score) for sample, score in zip(samples, found, strict=True)]


def scores(work: Work, name: str, answers: Sequence[Exchange], scorer: Scorer) -> list[float]:
    """What answers are worth, in their order.

    Raises:
        RunError: the scorer gives what is no number.
    """

    def make(portion: Portion[Exchange]) -> Iterable[dict[str, Any]]:
        found = scorer.score(portion.items)
        for answer, score in zip(portion.items, found, strict=True):
            if not math.isfinite(score):
                text = shortened(repr(answer.response), 80)
                raise RunError(f"--scorer gives {score} for the response {text}: {scorer.description}")
        return ({"score": score} for score in found)

    return [row["score"] for row in work.in_portions(f"scores-{name}", answers, _SAMPLES, make)]

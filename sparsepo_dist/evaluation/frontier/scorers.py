"""What a response is worth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sparsepo_dist.builtin.rewards import SCORER, VADER, rewards
from sparsepo_dist.evaluation.frontier.classifiers import Exchange, judge
from sparsepo_dist.evaluation.target import Target


class Scorer(NamedTuple):
    """A reward."""

    description: str
    """What its numbers are, for tables and figures."""
    measurement: str
    """All that decides its numbers, fit for a file name."""
    score: Callable[[Sequence[Exchange]], list[float]]


def scorer(named: str, positive: str) -> Scorer:
    """`vader`, or the folder or hub id of a sequence classifier or reward model of transformers.

    Args:
        positive: the label that counts as positive, in any case, of a classifier of several.

    Raises:
        UserError: vaderSentiment is not installed, the classifier cannot be loaded, or has no such label.
    """
    if named == VADER:
        rewards(())  # says now, and not after hours of sampling, that the package is missing
        return Scorer(SCORER, VADER, lambda samples: rewards(sample.response for sample in samples))
    found = judge(named, positive)
    identity = Target(named, named).sha256 or hashlib.sha256(named.encode()).hexdigest()
    return Scorer(f"{named}: {found.said}", f"{found.measurement}-{identity[:16]}", found.score)

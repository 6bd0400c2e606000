"""The reward: VADER's compound score of a response."""

from __future__ import annotations

from collections.abc import Iterable

from sparsepo_dist.errors import UserError

VADER = "vader"
SCORER = "vaderSentiment compound, response only"


def rewards(responses: Iterable[str]) -> list[float]:
    """Compound sentiment in [-1, 1] of each response; the prompt is the same for all and is left out.

    Raises:
        UserError: vaderSentiment is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise UserError("the sentiment experiment needs vaderSentiment: pip install 'sparsepo_dist[demo]'") from None
    analyzer = SentimentIntensityAnalyzer()
    return [float(analyzer.polarity_scores(response)["compound"]) for response in responses]

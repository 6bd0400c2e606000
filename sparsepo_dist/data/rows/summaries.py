"""Rows of openai/summarize_from_feedback: `comparisons` of two summaries, and single ones with ratings (`axis`).

Prompts read as in the paper that collected them (Stiennon et al. 2020, https://github.com/openai/summarize-from-feedback).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsepo_dist.data.reading.sources import Row, RowError
from sparsepo_dist.data.rows.checks import parse_scores
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.errors import UserError

MOST_POSTS = 2**17
"""Of rated summaries: they are kept until all are read. The data set has some 8,000."""
POST = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
ARTICLE = "Article:\n{article}\n\nTL;DR:"


def comparison(row: Row) -> dict[str, Any]:
    """Prompt, chosen and rejected of a comparison.

    Raises:
        RowError: no post, not two summaries, or no choice between them.
    """
    fields, place = row.fields, row.place
    summaries, choice = fields["summaries"], fields["choice"]
    if not isinstance(summaries, list | tuple) or len(summaries) != 2:
        raise RowError(place, "summaries must be a list of two")
    if isinstance(choice, bool) or choice not in (0, 1):
        raise RowError(place, f"choice must be 0 or 1, found {choice!r}")
    texts = [summary_text(place, f"summaries[{index}]", summary) for index, summary in enumerate(summaries)]
    best = int(choice)  # 1.0 in tables where a column of whole numbers has nulls
    return {"prompt": post_prompt(place, fields["info"]), "chosen": texts[best], "rejected": texts[1 - best]}


@dataclass
class _Post:
    """The rated summaries of a post."""

    place: str
    prompt: str
    ratings: dict[str, list[float]] = field(default_factory=dict)

    def pair(self) -> Row | None:
        """Best and worst summary, by the mean of their ratings; None where all are alike."""
        means = {text: sum(ratings) / len(ratings) for text, ratings in self.ratings.items()}
        best, worst = max(means, key=lambda text: means[text]), min(means, key=lambda text: means[text])
        if means[best] == means[worst]:
            return None
        scores = {"chosen_score": means[best], "rejected_score": means[worst]}
        return Row(self.place, {"prompt": self.prompt, "chosen": best, "rejected": worst, **scores})


def paired(rows: Iterable[Row | RowError], remarks: Remarks) -> Iterator[Row | RowError]:
    """One row for each post: the best and the worst of its summaries, wherever they stand; bad rows go first.

    Raises:
        UserError: more than MOST_POSTS.
    """
    posts: dict[str, _Post] = {}
    for row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            _add(row, posts)
            remarks.leave(str(name) for name in row.fields if name not in ("info", "summary"))
        except RowError as bad:
            yield bad
        if len(posts) > MOST_POSTS:
            raise UserError(
                f"there are more than {MOST_POSTS} posts with rated summaries in one source; divide it by posts"
            )
    for post in posts.values():
        pair = post.pair()
        if pair is None:
            remarks.unpaired += 1
        else:
            yield pair


def _add(row: Row, posts: dict[str, _Post]) -> None:
    for name in ("info", "summary"):
        if not isinstance(row.fields, Mapping) or not isinstance(row.fields.get(name), Mapping):
            raise RowError(row.place, f"{name} must be an object, as in rows of rated summaries")
    prompt, summary = post_prompt(row.place, row.fields["info"]), row.fields["summary"]
    text, axes = summary_text(row.place, "summary", summary), summary.get("axes")
    rating = parse_scores(
        row.place, "summary.axes.overall", axes.get("overall") if isinstance(axes, Mapping) else None, 1
    )
    if not rating:
        raise RowError(row.place, "summary.axes.overall is missing or null")
    posts.setdefault(prompt, _Post(row.place, prompt)).ratings.setdefault(text, []).extend(rating)


def post_prompt(place: str, info: Any) -> str:
    """What is summarised, as a prompt. Raises RowError where `info` holds neither a post nor an article."""
    if not isinstance(info, Mapping):
        raise RowError(place, f"info must be an object, found {type(info).__name__}")
    wanted = ("article",) if info.get("post") is None and info.get("article") is not None else (
        "subreddit", "title", "post",
    )  # fmt: skip
    for name in wanted:
        if not isinstance(info.get(name), str):
            raise RowError(place, f"info.{name} must be text, found {type(info.get(name)).__name__}")
    return (ARTICLE if len(wanted) == 1 else POST).format(**{name: info[name] for name in wanted})


def summary_text(place: str, name: str, summary: Any) -> str:
    """A summary as it follows the prompt: behind a space, which most rows have and some have not. Raises RowError where
    it has no text."""
    text = summary.get("text") if isinstance(summary, Mapping) else None
    if not isinstance(text, str):
        raise RowError(place, f"{name}.text must be text, found {type(text).__name__}")
    return text if text[:1].isspace() or not text else f" {text}"

"""Rows of openai/summarize_from_feedback become pairs, and posts with the summary that a person wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sparsepo_dist.data.reading.sources import Row, RowError
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.data.rows.summaries import comparison, paired, post_prompt, summary_text
from sparsepo_dist.errors import UserError
from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.schema import LIST, NUMBER, OBJECT, WHOLE, Schema, SchemaRow

SET = "openai/summarize_from_feedback"
_OPTION = "--source"
MOST_WORDS = 100
"""By which the lengths of two summaries may differ."""
_PERSON = "ref"
"""The policy of summaries that were not generated: the one that the post's author wrote."""
_COMPARISONS = Schema(f"{SET}:comparisons", {"info": OBJECT, "summaries": LIST, "choice": WHOLE})
_RATED = Schema(
    f"{SET}:axis", {"info": OBJECT, "summary": OBJECT, "summary.axes": OBJECT}, {"summary.axes.overall": NUMBER}
)


class Pair(NamedTuple):
    """Two summaries of a post, of which people found one better."""

    prompt: str
    chosen: str
    rejected: str


@dataclass
class Feedback:
    """What sources of one kind hold."""

    pairs: list[Pair]
    references: dict[str, str] = field(default_factory=dict)
    """By prompt, of posts that have one: the summary that a person wrote."""


def comparisons(part: str, source: str, card: Card) -> Feedback:
    """Pairs of summaries between which a person chose.

    Args:
        part: what the card calls the source.

    Raises:
        UserError: the source cannot be read, or a row is not of the schema.
    """
    found, prompts = Feedback([]), dict[str, str]()
    for row in _of_posts(part, _COMPARISONS.rows(source, option=_OPTION), card):
        values = _checked(comparison, Row(row.place, row.values))
        prompt = prompts.setdefault(values["prompt"], values["prompt"])  # a post has many comparisons
        found.pairs.append(Pair(prompt, values["chosen"], values["rejected"]))
        for summary in row.values["summaries"]:
            _note_reference(found, prompt, summary)
    found.pairs = _usable(part, found.pairs, card)
    return found


def rated(part: str, sources: Iterable[str], card: Card) -> Feedback:
    """Of every post its best and its worst summary, by the mean of their overall ratings.

    Args:
        part: what the card calls the sources.

    Raises:
        UserError: a source cannot be read, or a row is not of the schema.
    """
    every = (row for source in sources for row in _RATED.rows(source, option=_OPTION))
    rows = list(_of_posts(part, every, card))
    told = [row for row in rows if row.values["summary.axes.overall"] is not None]
    card.step(f"{part}: with an overall rating", len(rows), len(told), unit="summaries")
    found, remarks = Feedback([]), Remarks()
    for row in told:
        summary = row.values["summary"]
        _note_reference(found, _checked(_prompt, Row(row.place, row.values)), summary)
    best_and_worst = paired(
        (Row(row.place, {name: row.values[name] for name in ("info", "summary")}) for row in told), remarks
    )
    for one in best_and_worst:
        if isinstance(one, RowError):
            raise UserError(f"{_OPTION} {one}")
        found.pairs.append(Pair(*(one.fields[name] for name in Pair._fields)))
    posts = len(found.pairs) + remarks.unpaired
    card.step(f"{part}: with two summaries of different ratings", posts, len(found.pairs), unit="posts")
    found.pairs = _usable(part, found.pairs, card)
    return found


def _of_posts(part: str, rows: Iterable[SchemaRow], card: Card) -> Iterator[SchemaRow]:
    """The rows about Reddit posts; the set has news articles, too."""
    before = after = 0
    for row in rows:
        before += 1
        if row.values["info"].get("post") is not None or row.values["info"].get("article") is None:
            after += 1
            yield row
    card.step(f"{part}: about Reddit posts, not news articles", before, after)


def _checked(read: Callable[[Row], Any], row: Row) -> Any:
    try:
        return read(row)
    except RowError as bad:
        raise UserError(f"{_OPTION} {bad}; expected rows of {SET}") from None


def _prompt(row: Row) -> str:
    summary_text(row.place, "summary", row.fields["summary"])
    return post_prompt(row.place, row.fields["info"])


def _note_reference(found: Feedback, prompt: str, summary: Mapping[str, Any]) -> None:
    if summary.get("policy") == _PERSON and summary["text"].strip():
        found.references.setdefault(prompt, summary["text"].strip())


def _usable(part: str, pairs: list[Pair], card: Card) -> list[Pair]:
    for said, holds in (
        ("neither summary is blank", lambda pair: pair.chosen.strip() and pair.rejected.strip()),
        ("summaries differ", lambda pair: pair.chosen.strip() != pair.rejected.strip()),
        (f"lengths differ by {MOST_WORDS} words at most", _are_alike),
    ):
        kept = list(filter(holds, pairs))
        card.step(f"{part}: {said}", len(pairs), len(kept), unit="pairs")
        pairs = kept
    return pairs


def _are_alike(pair: Pair) -> bool:
    return abs(len(pair.chosen.split()) - len(pair.rejected.split())) <= MOST_WORDS


def preferences(pairs: Iterable[Pair]) -> Iterator[dict[str, str]]:
    """Rows of preferences."""
    return (pair._asdict() for pair in pairs)

"""Which pairs are trained on, and which are held out: no post is on both sides."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.summaries.pairs import Feedback, Pair

log = logging.getLogger(__name__)
Item = TypeVar("Item")


class Wanted(NamedTuple):
    """How much is drawn."""

    train: int
    """Pairs of comparisons, and as many of rated summaries."""
    heldout: int
    """Likewise."""
    posts: int
    """To be summarised."""


class Selection(NamedTuple):
    """What was drawn."""

    train: list[Pair]
    heldout: list[Pair]
    posts: list[tuple[str, str]]
    """Prompts of the held-out side, and a person's summary of each."""


def select(train: Feedback, heldout: Feedback, rated: Feedback, wanted: Wanted, seed: int, card: Card) -> Selection:
    """Draw pairs uniformly, of comparisons and of rated summaries, and posts.

    Posts of the held-out comparisons are held out, and those of the others trained on. Rated summaries have no split
    for training: their posts are divided by seed, in the proportion of the pairs that are wanted, and then so are the
    comparisons of the same posts.
    """
    share = wanted.heldout / (wanted.train + wanted.heldout)
    posts = {pair.prompt for pair in rated.pairs} | set(rated.references)
    aside = {post for post in posts if _fraction(post, seed) < share}
    learnt = posts - aside
    untouched = aside | ({pair.prompt for pair in heldout.pairs} - learnt)
    sides = {
        "training comparisons": (_without(train.pairs, untouched), train.pairs, wanted.train),
        "training pairs of rated summaries": (_without(rated.pairs, aside), None, wanted.train),
        "held-out comparisons": (_without(heldout.pairs, learnt), heldout.pairs, wanted.heldout),
        "held-out pairs of rated summaries": (_without(rated.pairs, learnt), None, wanted.heldout),
    }
    drawn = []
    for said, (kept, before, number) in sides.items():
        if before is not None:
            card.step(f"{said}: of posts that are not on the other side", len(before), len(kept), unit="pairs")
        drawn.append(_drawn(said, kept, number, seed, card, "pairs"))
    references = {**heldout.references, **rated.references}
    told = sorted((post, text) for post, text in references.items() if post in untouched)
    chosen = _drawn("posts to summarise: held out, with a person's summary", told, wanted.posts, seed, card, "posts")
    return Selection([*drawn[0], *drawn[1]], [*drawn[2], *drawn[3]], chosen)


def _fraction(post: str, seed: int) -> float:
    """A number in [0, 1) of a post's own, whatever other posts there are."""
    return int.from_bytes(hashlib.sha256(f"{seed} {post}".encode()).digest()[:8], "big") / 2**64


def _without(pairs: Iterable[Pair], posts: set[str]) -> list[Pair]:
    return [pair for pair in pairs if pair.prompt not in posts]


def _drawn(said: str, items: Sequence[Item], number: int, seed: int, card: Card, unit: str) -> list[Item]:
    """So many, or all there are, in their order."""
    if len(items) < number:
        log.warning("%s: there are %d %s, fewer than the %d asked for; all are taken", said, len(items), unit, number)
    places = sorted(random.Random(f"{seed} {said}").sample(range(len(items)), min(number, len(items))))
    card.step(f"{said}: drawn, {number:,} asked for", len(items), len(places), unit=unit)
    return [items[place] for place in places]

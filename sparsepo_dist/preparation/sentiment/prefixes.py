"""Prefixes of texts, and which of them are trained on, tuned on and left alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.builtin.prompts import heldout_prompts, training_prompts, unseen_prompts
from sparsepo_dist.data.tokens.encode import prompt_ids
from sparsepo_dist.errors import UserError
from sparsepo_dist.preparation.card import Card

SHORTEST, LONGEST = 5, 8
"""Tokens of a prefix, as the paper has it."""
_SHARE = 10
"""One part in so many is held out, and as much left alone, where nothing else is asked for."""


class Prefix(NamedTuple):
    """The beginning of a text."""

    text: str
    rest: str
    """What the text goes on with; empty for a prompt that is nothing's beginning."""


class Wanted(NamedTuple):
    """How many prefixes of each kind; None where it is not said."""

    train: int | None
    heldout: int | None
    untouched: int | None


class Split(NamedTuple):
    """Prefixes by what becomes of them; none is in two."""

    train: list[Prefix]
    heldout: list[Prefix]
    untouched: list[Prefix]


def cut_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, seed: int, card: Card) -> list[Prefix]:
    """A prefix of each text, in an order and of lengths that the seed draws; equal texts and equal prefixes once, and
    only those that have as many tokens when they stand alone."""
    drawn = random.Random(seed)
    different = list(dict.fromkeys(texts))  # else prefixes of two lengths could put one text on two sides
    card.step("different texts", len(texts), len(different), unit="texts")
    order = drawn.sample(different, len(different))
    long, found = 0, list[Prefix]()
    for text in tqdm(order, desc="cutting texts", unit="text"):
        length = drawn.randint(SHORTEST, LONGEST)
        ids = prompt_ids(text, tokenizer, add_bos=False)[: LONGEST + 1]
        if len(ids) > LONGEST:
            long += 1
            found += _prefix(text, ids[:length], tokenizer)
    unique = list({prefix.text: prefix for prefix in found}.values())
    card.step(f"of more than {LONGEST} tokens", len(different), long, unit="texts")
    card.step("their first tokens are the same alone", long, len(found), unit="texts")
    card.step("different prefixes", len(found), len(unique), unit="prefixes")
    return unique


def _prefix(text: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[Prefix]:
    prefix = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    if text.startswith(prefix) and prefix.strip() and prompt_ids(prefix, tokenizer, add_bos=False) == list(ids):
        yield Prefix(prefix, text[len(prefix) :])


def split(prefixes: Sequence[Prefix], wanted: Wanted) -> Split:
    """Training prefixes first, then held-out ones, then those that are left alone; a tenth of all, or of the training
    ones, where the number of the latter two is not said.

    Raises:
        UserError: there are not as many.
    """
    among = -(-(wanted.train or len(prefixes)) // _SHARE)
    heldout = among if wanted.heldout is None else wanted.heldout
    untouched = among if wanted.untouched is None else wanted.untouched
    train = max(len(prefixes) - heldout - untouched, 0) if wanted.train is None else wanted.train
    if not train or train + heldout + untouched > len(prefixes):
        raise UserError(
            f"--texts: {len(prefixes)} prefixes are not enough for {max(train, 1)} to train on, {heldout} held out and "
            f"{untouched} left alone; lower --prompts, --heldout_prompts or --test_prompts"
        )
    ends = train, train + heldout, train + heldout + untouched
    return Split(list(prefixes[: ends[0]]), list(prefixes[ends[0] : ends[1]]), list(prefixes[ends[1] : ends[2]]))


def own_prompts(wanted: Wanted) -> Split:
    """The project's own prompts, split by what they are about.

    Raises:
        UserError: there are not as many.
    """
    found = []
    for option, there, count in (
        ("--prompts", training_prompts(None), wanted.train),
        ("--heldout_prompts", heldout_prompts(None), wanted.heldout),
        ("--test_prompts", unseen_prompts(None), wanted.untouched),
    ):
        if count is not None and count > len(there):
            raise UserError(f"{option} {count}: there are {len(there)} such prompts of the project; lower it")
        found.append([Prefix(text, "") for text in there[:count]])
    return Split(*found)

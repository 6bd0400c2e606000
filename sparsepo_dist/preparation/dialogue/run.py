"""Anthropic HH: preferences, the chosen responses for SFT, and the prompts of the test split."""

from __future__ import annotations

import argparse
import json

from sparsepo_dist.builtin.sets import set_file
from sparsepo_dist.data.reading.sources import Row, RowError
from sparsepo_dist.data.rows.hh import is_dialogue
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.files import argument
from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.dialogue.turns import Pair, read_pair
from sparsepo_dist.preparation.registry import Plan, Preparation
from sparsepo_dist.preparation.schema import Kind, Schema
from sparsepo_dist.preparation.sources import refuse_nothing, source_record
from sparsepo_dist.preparation.work import Work

SET = "Anthropic/hh-rlhf"
TEXT, MESSAGES = "text", "messages"
_DIALOGUE = Kind(
    "a dialogue of Human: and Assistant: turns", lambda value: isinstance(value, str) and is_dialogue(value)
)
_SCHEMA = Schema(SET, {"chosen": _DIALOGUE, "rejected": _DIALOGUE})


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--train", type=argument, default=SET, metavar="SOURCE",
        help="training rows: a hub id, a clone's folder, a file, or builtin:dialogues (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--heldout", type=argument, metavar="SOURCE", help="held-out rows (TRAIN:test)")
    parser.add_argument(
        "--form", choices=(TEXT, MESSAGES), default=TEXT,
        help="prompts and responses as the text that they are, or as messages for chat templates (%(default)s)",
    )  # fmt: skip


def _plan(given: argparse.Namespace) -> Plan:
    named = {"--train": given.train, "--heldout": given.heldout or f"{given.train}:test"}
    read = {option: set_file(source) for option, source in named.items()}

    def make(work: Work, card: Card) -> None:
        train, heldout = (_pairs(option, read[option], given.form, card) for option in read)
        seen = {_key(pair) for pair in train}
        card.count(
            "held-out pairs whose prompt is in the training pairs too", sum(_key(one) in seen for one in heldout)
        )
        for name, said, pairs in (("train", "training", train), ("heldout", "held-out", heldout)):
            work.write(f"{name}.jsonl", (pair.preference() for pair in pairs), f"{said} preferences")
            prefix = "" if name == "train" else f"_{name}"
            work.write(f"sft{prefix}.jsonl", (pair.supervised() for pair in pairs), f"{said} chosen responses, for SFT")
        prompts = {_key(pair): pair.prompt for pair in heldout}
        new = [prompt for key, prompt in prompts.items() if key not in seen]
        card.step("prompts.jsonl: not among the training prompts", len(prompts), len(new), unit="prompts")
        work.write("prompts.jsonl", ({"prompt": prompt} for prompt in new), "held-out prompts, each once")

    records = {option: {**source_record(read[option], option), "source": source} for option, source in named.items()}
    return Plan({"form": given.form}, records, make)


def _pairs(option: str, source: str, form: str, card: Card) -> list[Pair]:
    """The usable pairs of a source; what is left out goes to the card by its reason."""
    pairs, remarks = [], Remarks()
    for row in _SCHEMA.rows(source, option=option):
        try:
            pairs.append(read_pair(Row(row.place, row.values), remarks, as_messages=form == MESSAGES))
        except RowError as bad:
            remarks.drop(bad)
    left = len(pairs) + remarks.dropped.total()
    card.count(f"{option}: rows", left)
    for reason, count in remarks.dropped.most_common():
        card.step(f"{option}: without rows where {reason}", left, left - count)
        left -= count
    refuse_nothing(option, source, pairs, card)
    card.count(f"{option}: pairs of which a response holds further turns", sum(pair.goes_on for pair in pairs))
    return pairs


def _key(pair: Pair) -> str:
    return json.dumps(pair.prompt)


PREPARATION = Preparation(
    "Anthropic HH: preferences between whole responses, the chosen ones for SFT, and the test split's prompts.",
    _add_options, _plan,
)  # fmt: skip

"""argilla/dpo-mix-7k: preferences, and what fine-tuning learns of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from sparsepo_dist.builtin.sets import set_file
from sparsepo_dist.files import argument
from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.registry import Plan, Preparation
from sparsepo_dist.preparation.schema import MESSAGES, NUMBER, TEXT, Schema
from sparsepo_dist.preparation.sources import refuse_nothing, source_record
from sparsepo_dist.preparation.work import Work

SET = "argilla/dpo-mix-7k"
_SCHEMA = Schema(
    SET,
    {"dataset": TEXT, "chosen": MESSAGES, "rejected": MESSAGES, "chosen_rating": NUMBER, "rejected_rating": NUMBER},
)  # fmt: skip
Row = Mapping[str, Any]


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--train", type=argument, default=SET, metavar="SOURCE",
        help="training rows: a hub id, a clone's folder or a file (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--heldout", type=argument, metavar="SOURCE", help="held-out rows (TRAIN:test)")


def _plan(given: argparse.Namespace) -> Plan:
    sources = {"--train": given.train, "--heldout": given.heldout or f"{given.train}:test"}

    def make(work: Work, card: Card) -> None:
        train = _usable("--train", sources["--train"], card)
        heldout = _usable("--heldout", sources["--heldout"], card)
        seen = {_prompt(row) for row in train}
        card.count(
            "held-out rows whose prompt is in the training rows too", sum(_prompt(row) in seen for row in heldout)
        )
        for name, said, rows in (("train", "training", train), ("heldout", "held-out", heldout)):
            work.write(f"{name}.jsonl", rows, f"{said} preferences")
            prefix = "" if name == "train" else f"_{name}"
            work.write(f"sft{prefix}.jsonl", map(_supervised, rows), f"{said} dialogues for SFT, the chosen ones")

    return Plan({}, {option: source_record(set_file(source), option) for option, source in sources.items()}, make)


def _usable(option: str, source: str, card: Card) -> list[Row]:
    rows: list[Row] = [row.values for row in _SCHEMA.rows(source, option=option)]
    for said, holds in (("answers differ", _differ), ("both end with an answer of the assistant", _are_answered)):
        kept = [row for row in rows if holds(row)]
        card.step(f"{option}: {said}", len(rows), len(kept))
        rows = kept
    refuse_nothing(option, source, rows, card)
    for name in sorted({row["dataset"] for row in rows}):
        card.count(f"{option}: rows from {name}", sum(row["dataset"] == name for row in rows))
    return rows


def _differ(row: Row) -> bool:
    return _told(row["chosen"]) != _told(row["rejected"])


def _are_answered(row: Row) -> bool:
    return all(
        row[side][-1]["role"] == "assistant" and row[side][-1]["content"].strip() for side in ("chosen", "rejected")
    )


def _prompt(row: Row) -> tuple[tuple[str, str], ...]:
    """What both dialogues begin with alike."""
    chosen, rejected = _told(row["chosen"]), _told(row["rejected"])
    pairs = zip(chosen, rejected, strict=False)
    shared = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(chosen), len(rejected)))
    return chosen[:shared]


def _told(messages: Sequence[Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)


def _supervised(row: Row) -> dict[str, Any]:
    return {"messages": row["chosen"], "dataset": row["dataset"]}


PREPARATION = Preparation(
    "argilla/dpo-mix-7k for the ablations: preferences of dialogues, and their chosen sides for SFT. Models without a "
    "chat template take data.chat_template builtin:plain.",
    _add_options, _plan,
)  # fmt: skip

"""openai/summarize_from_feedback: pairs of summaries, SFT rows, and the posts that models are compared on."""

from __future__ import annotations

import argparse
import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparsepo_dist.builtin.sets import set_file
from sparsepo_dist.evaluation.arguments import positive
from sparsepo_dist.files import argument, at_home
from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.registry import Plan, Preparation
from sparsepo_dist.preparation.sources import refuse_nothing, source_record
from sparsepo_dist.preparation.summaries.pairs import SET, Pair, comparisons, preferences, rated
from sparsepo_dist.preparation.summaries.selection import Wanted, select
from sparsepo_dist.preparation.work import Work

_TRAIN, _HELDOUT = "comparisons:train", "comparisons:validation"
_RATED = ("axis:validation", "axis:test")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", type=argument, default=SET, metavar="SET",
        help="the set, with its configurations comparisons and axis: a hub id, a folder or builtin:posts (%(default)s)",
    )  # fmt: skip
    for name, number, said in (
        ("train_pairs", 20_000, "pairs to train on"), ("heldout_pairs", 4_000, "held-out pairs"),
    ):  # fmt: skip
        parser.add_argument(
            f"--{name}", type=positive, default=number, metavar="N",
            help=f"{said}, of comparisons and as many of rated summaries (%(default)s)",
        )  # fmt: skip
    parser.add_argument(
        "--posts", type=positive, default=120, metavar="N", help="posts to summarise in the evaluation (%(default)s)"
    )


def _plan(given: argparse.Namespace) -> Plan:
    read = {part: _part(given.source, part) for part in (_TRAIN, _HELDOUT, *_RATED)}
    wanted = Wanted(given.train_pairs, given.heldout_pairs, given.posts)

    def make(work: Work, card: Card) -> None:
        train, heldout = (comparisons(part, read[part], card) for part in (_TRAIN, _HELDOUT))
        scored = rated("axis", [read[part] for part in _RATED], card)
        found = select(train, heldout, scored, wanted, given.seed, card)
        for pairs in (found.train, found.heldout):
            refuse_nothing("--source", given.source, pairs, card)
        work.write("train.jsonl", preferences(found.train), "training preferences")
        work.write("heldout.jsonl", preferences(found.heldout), "held-out preferences")
        work.write("sft.jsonl", _supervised(found.train), "training summaries that were preferred, for SFT")
        work.write("sft_heldout.jsonl", _supervised(found.heldout), "held-out summaries that were preferred, for SFT")
        work.write(
            "prompts.jsonl", ({"prompt": post, "summary": text} for post, text in found.posts),
            "posts to summarise (evaluation/summary.py --prompts), with a person's summary",
        )  # fmt: skip
        summaries = dict.fromkeys(pair.chosen.strip() for pair in found.train)
        work.write(
            "idf.jsonl", ({"summary": text} for text in summaries),
            "training summaries that were preferred, each once (evaluation/summary.py --bertscore_idf)",
        )  # fmt: skip

    records = {
        part: {**source_record(source, "--source"), "source": f"{given.source}:{part}"} for part, source in read.items()
    }
    return Plan(wanted._asdict(), records, make)


def _part(source: str, part: str) -> str:
    """Where a split of a configuration is read: a hub's Parquet branch has a folder for each."""
    configuration, split = part.split(":")
    folder = Path(at_home(source)) / configuration / split
    return f"{glob.escape(str(folder))}/*" if folder.is_dir() else set_file(f"{source}:{part}")


def _supervised(pairs: Iterable[Pair]) -> Iterator[dict[str, str]]:
    return ({"prompt": pair.prompt, "completion": pair.chosen} for pair in pairs)


PREPARATION = Preparation(
    "Human feedback on summaries of Reddit posts: comparisons, and of rated summaries the best against the worst of a "
    "post. Pairs whose lengths differ by more than 100 words go; news articles, too. No post is on both sides.",
    _add_options, _plan,
)  # fmt: skip

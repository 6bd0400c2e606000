"""The options of `sparsepo prepare sentiment`; the defaults are the paper's experiment."""

from __future__ import annotations

import argparse
import math

from sparsepo_dist.evaluation.arguments import positive
from sparsepo_dist.files import argument
from sparsepo_dist.preparation.options import add_sampling
from sparsepo_dist.sampling.responses import Nucleus

OWN_PROMPTS = "builtin:prompts"


def add_options(parser: argparse.ArgumentParser) -> None:
    """All but `--output` and `--seed`."""
    _add_texts(parser)
    _add_sampling(parser)
    scoring = parser.add_argument_group("scores and pairs")
    scoring.add_argument(
        "--scorer", type=argument, default="siebert/sentiment-roberta-large-english", metavar="PATH",
        help="a text-classification model: a folder or hub id (%(default)s); or vader, of the completion alone",
    )  # fmt: skip
    add_ranking(scoring)


def add_ranking(scoring: argparse._ArgumentGroup) -> None:
    """What of a scorer counts, and which pairs its scores make."""
    scoring.add_argument(
        "--positive_label", default="POSITIVE", metavar="NAME", help="the classifier's positive label (%(default)s)"
    )
    scoring.add_argument(
        "--pairs_per_prompt", type=positive, default=1, metavar="N",
        help="pairs of a prompt: best against worst, second-best against second-worst, and so on (%(default)s)",
    )  # fmt: skip
    scoring.add_argument(
        "--least_difference", type=_difference, default=0.0, metavar="D",
        help="pairs whose scores differ by no more are left out (%(default)s: ties alone)",
    )  # fmt: skip


def _add_texts(parser: argparse.ArgumentParser) -> None:
    texts = parser.add_argument_group("prefixes")
    texts.add_argument(
        "--texts", type=argument, default="stanfordnlp/imdb", metavar="SOURCE",
        help=f"texts whose beginnings are taken: a file, folder or hub id (%(default)s); {OWN_PROMPTS} are the "
        "project's own",
    )  # fmt: skip
    texts.add_argument("--field", default="text", metavar="NAME", help="the column with the text (%(default)s)")
    for name, said in (
        ("prompts", "prefixes to train on (all that are left)"),
        ("heldout_prompts", "prefixes to tune on (a tenth)"),
        ("test_prompts", "prefixes left alone, of which prompts.jsonl is made (a tenth)"),
    ):
        texts.add_argument(f"--{name}", type=positive, metavar="N", help=said)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    sampling = parser.add_argument_group("completions", "by default from the model's own distribution")
    sampling.add_argument("--completions", type=several, default=2, metavar="N", help="of each prefix (%(default)s)")
    add_sampling(sampling, "insub/gpt2-large-imdb-fine-tuned", Nucleus(temperature=1.0, top_p=1.0))


def several(text: str) -> int:
    """An integer above 1. Raises argparse.ArgumentTypeError for anything else."""
    number = positive(text)
    if number < 2:
        raise argparse.ArgumentTypeError("a pair takes 2 completions at least")
    return number


def _difference(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value

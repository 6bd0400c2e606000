"""The options of `sparsepo prepare sentiment`; the defaults are the paper's experiment."""

from __future__ import annotations

import argparse

from sparsepo_dist.evaluation.arguments import positive, share, temperature
from sparsepo_dist.files import argument
from sparsepo_dist.sampling.backends import TRANSFORMERS, VLLM
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
    scoring.add_argument(
        "--positive_label", default="POSITIVE", metavar="NAME", help="the classifier's positive label (%(default)s)"
    )
    scoring.add_argument(
        "--pairs_per_prompt", type=positive, default=1, metavar="N",
        help="pairs of a prefix: best against worst, second-best against second-worst, and so on (%(default)s)",
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
    sampling = parser.add_argument_group("completions")
    sampling.add_argument(
        "--model", type=argument, default="insub/gpt2-large-imdb-fine-tuned", metavar="PATH",
        help="what completes: a folder, a run's, an adapter's, a hub id, builtin:smollm2-135m-instruct (%(default)s)",
    )  # fmt: skip
    sampling.add_argument("--completions", type=_several, default=2, metavar="N", help="of each prefix (%(default)s)")
    sampling.add_argument(
        "--temperature",
        type=temperature,
        default=1.0,
        metavar="T",
        help="%(default)s: from the model's own distribution",
    )
    sampling.add_argument("--top_p", type=share, default=1.0, metavar="P", help="nucleus sampling's P (%(default)s)")
    sampling.add_argument(
        "--max_new_tokens", type=positive, default=Nucleus.max_new_tokens, metavar="N",
        help="tokens of a completion, at most (%(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--batch_size", type=positive, default=96, metavar="N",
        help="completions drawn at once (%(default)s); vLLM decides by itself",
    )  # fmt: skip
    sampling.add_argument(
        "--backend", choices=(TRANSFORMERS, VLLM), default=TRANSFORMERS, help="what samples (%(default)s)"
    )


def _several(text: str) -> int:
    number = positive(text)
    if number < 2:
        raise argparse.ArgumentTypeError("a pair takes 2 completions at least")
    return number


def _difference(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must not be negative")
    return value

"""The options of `sparsepo prepare code`; the defaults are the paper's experiment where it says something."""

from __future__ import annotations

import argparse
import os

from sparsepo_dist.evaluation.arguments import positive, share, temperature
from sparsepo_dist.evaluation.code.exercises import DOCSTRING, FORMS
from sparsepo_dist.files import argument
from sparsepo_dist.preparation.code.problems import SET
from sparsepo_dist.sampling.backends import TRANSFORMERS, VLLM


def add_options(parser: argparse.ArgumentParser) -> None:
    """All but `--output` and `--seed`."""
    problems = parser.add_argument_group("problems")
    problems.add_argument(
        "--train", type=argument, default=SET, metavar="SOURCE",
        help="problems to train on: a hub id, a clone's folder, a file, or builtin:problems (%(default)s)",
    )  # fmt: skip
    problems.add_argument("--heldout", type=argument, metavar="SOURCE", help="held-out problems (TRAIN:validation)")
    problems.add_argument(
        "--form", choices=FORMS, default=DOCSTRING,
        help="what a model continues: text and first test as a docstring, as BigCode's harness has it, or the "
        "beginning of the function, for small models (%(default)s)",
    )  # fmt: skip
    _add_sampling(parser)
    running = parser.add_argument_group("tests")
    running.add_argument(
        "--allow_code_execution",
        action="store_true",
        help="run what the model writes, in the sandbox; it has to be said",
    )
    running.add_argument(
        "--workers", type=positive, default=len(os.sched_getaffinity(0)), metavar="N",
        help="programs run at once (one a core)",
    )  # fmt: skip


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    sampling = parser.add_argument_group("programs")
    sampling.add_argument(
        "--model", type=argument, default="loubnabnl/starcoder-1b", metavar="PATH",
        help="what writes them: a folder, a run's, an adapter's, a hub id, or builtin:smollm2-135m-instruct "
        "(%(default)s)",
    )  # fmt: skip
    sampling.add_argument("--samples", type=positive, default=100, metavar="N", help="of each problem (%(default)s)")
    sampling.add_argument(
        "--temperature", type=temperature, default=0.6, metavar="T",
        help="%(default)s, as in the paper's evaluation; of these samples it does not say",
    )  # fmt: skip
    sampling.add_argument(
        "--top_p", type=share, default=0.95, metavar="P", help="nucleus sampling's P (%(default)s, likewise)"
    )
    sampling.add_argument(
        "--max_new_tokens", type=positive, default=256, metavar="N", help="tokens of a program, at most (%(default)s)"
    )
    sampling.add_argument(
        "--batch_size", type=positive, default=96, metavar="N",
        help="programs drawn at once, and then run and kept (%(default)s); vLLM decides by itself",
    )  # fmt: skip
    sampling.add_argument(
        "--backend", choices=(TRANSFORMERS, VLLM), default=TRANSFORMERS, help="what samples (%(default)s)"
    )

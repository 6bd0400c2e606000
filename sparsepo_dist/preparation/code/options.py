"""The options of `sparsepo prepare code`; the defaults are the paper's experiment where it says something."""

from __future__ import annotations

import argparse
import os

from sparsepo_dist.evaluation.arguments import positive
from sparsepo_dist.evaluation.code.exercises import DOCSTRING, FORMS
from sparsepo_dist.files import argument
from sparsepo_dist.preparation.code.problems import SET
from sparsepo_dist.preparation.options import add_sampling
from sparsepo_dist.sampling.responses import Nucleus


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
    sampling = parser.add_argument_group(
        "programs", "by default as the paper samples in its evaluation; how it sampled these it does not say"
    )
    sampling.add_argument("--samples", type=positive, default=100, metavar="N", help="of each problem (%(default)s)")
    add_sampling(sampling, "loubnabnl/starcoder-1b", Nucleus(temperature=0.6, top_p=0.95, max_new_tokens=256))

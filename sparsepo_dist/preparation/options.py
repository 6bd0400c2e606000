"""Options that several preparations have."""

from __future__ import annotations

import argparse

from sparsepo_dist.evaluation.arguments import add_drawing, temperature
from sparsepo_dist.files import argument
from sparsepo_dist.sampling.backends import TRANSFORMERS
from sparsepo_dist.sampling.responses import Nucleus

SAMPLING = ("temperature", "top_p", "max_new_tokens", "batch_size", "backend")
"""All that decides what a model draws, besides the model."""


def add_sampling(parser: argparse._ArgumentGroup, model: str, defaults: Nucleus) -> None:
    """`--model` and the options of SAMPLING.

    Args:
        model: the default.
    """
    parser.add_argument(
        "--model", type=argument, default=model, metavar="PATH",
        help="a folder, a run's, an adapter's, a hub id, or builtin:smollm2-135m-instruct (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=temperature, default=defaults.temperature, metavar="T",
        help="that logits are divided by (%(default)s)",
    )  # fmt: skip
    add_drawing(parser)
    parser.set_defaults(
        top_p=defaults.top_p, max_new_tokens=defaults.max_new_tokens, batch_size=96, backend=TRANSFORMERS
    )

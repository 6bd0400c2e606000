"""Options that several drivers have, and how their values are checked."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import NoReturn

from sparsepo_dist.errors import did_you_mean
from sparsepo_dist.evaluation.sampling import Sampling
from sparsepo_dist.files import argument, path_argument
from sparsepo_dist.sampling.backends import TRANSFORMERS, VLLM, check_backend


def add_sampling(parser: argparse.ArgumentParser, prompt_count: int | None, defaults: Sampling) -> None:
    """What concerns models, output and reproduction, with the driver's own defaults; no count of prompts is all."""
    parser.add_argument(
        "--base", type=argument, metavar="PATH", help="the model that adapters belong on, where it has moved"
    )
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="DIR", help="folder of tables and results"
    )
    parser.add_argument(
        "--prompt_count", type=positive, metavar="N", help=f"how many prompts, the first ones ({prompt_count or 'all'})"
    )
    parser.add_argument("--samples", type=positive, metavar="N", help="samples of each prompt (%(default)s)")
    add_drawing(parser)
    parser.add_argument(
        "--max_prompt_length", type=positive, metavar="N",
        help="tokens of a prompt, which loses its beginning where it has more (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same samples (%(default)s)")
    parser.set_defaults(prompt_count=prompt_count, **asdict(defaults))


def add_drawing(parser: argparse._ActionsContainer) -> None:
    """How samples are drawn at any temperature; the caller sets defaults."""
    parser.add_argument("--top_p", type=share, metavar="P", help="nucleus sampling's P (%(default)s)")
    parser.add_argument(
        "--max_new_tokens", type=positive, metavar="N", help="tokens of a sample, at most (%(default)s)"
    )
    parser.add_argument(
        "--batch_size", type=positive, metavar="N", help="samples drawn at once (%(default)s); vLLM decides by itself"
    )
    parser.add_argument(
        "--backend", choices=(TRANSFORMERS, VLLM), help="what samples (%(default)s; vllm has to be installed)"
    )


def given_sampling(given: argparse.Namespace) -> Sampling:
    """What the options of `add_sampling` say.

    Raises:
        UserError: the backend is not installed.
    """
    check_backend(given.backend)
    return Sampling(**{field.name: getattr(given, field.name) for field in fields(Sampling)})


def positive(text: str) -> int:
    """An integer above 0. Raises argparse.ArgumentTypeError for anything else."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return int(text)


def temperature(text: str) -> float:
    """A number above 0. Raises argparse.ArgumentTypeError for another number, ValueError for none."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0 (sampling needs some chance)")
    return value


def share(text: str) -> float:
    """A number in (0, 1]. Raises argparse.ArgumentTypeError for another number, ValueError for none."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and at most 1")
    return value


def refusal(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> str | None:
    """What a parser would say of arguments before it ended the process; None where it takes them."""

    def refuse(message: str) -> NoReturn:
        raise ValueError(message)

    parser.error = refuse  # type: ignore[method-assign]
    try:
        parser.parse_args(arguments)
    except ValueError as error:
        message = str(error)
        unknown = re.search(r"unrecognized arguments: (--[^ =]+)", message)
        known = [option for action in parser._actions for option in action.option_strings]
        return message + (did_you_mean(unknown[1], known) if unknown else "")
    return None

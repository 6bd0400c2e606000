"""`sparsepo cache`, and one rank's part of `launch/cache.py`: the reference looks at every pair once."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from sparsepo_dist.commands.entry import guarded, say
from sparsepo_dist.runs.parsing import parse_arguments, train_parser


def parser() -> ArgumentParser:
    """Every option of a training run, and one more."""
    parser = train_parser()
    parser.prog = "sparsepo cache"
    parser.description = (
        "Let the reference look at every pair once and write what the run's objective needs of it to "
        "--reference.cache; training reads it with --reference.placement cached. Takes every option of launch/train.py."
    )
    parser.add_argument(
        "--all_layers", type=bool, default=False,
        help="Allow hidden states of all layers to be written, which masks.layers all reads: they are large.",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    return guarded(_cache, arguments)


def _cache(arguments: Sequence[str]) -> None:
    config, parsed = parse_arguments(parser(), arguments)
    from sparsepo_dist.runs.caching import write_cache

    folder = write_cache(config, say, all_layers=parsed.all_layers)
    say(f"The cache is in {folder}: train with --reference.placement cached --reference.cache {folder}")

"""`sparsepo prepare NAME`: the data of an experiment, made ready."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    from sparsepo_dist.commands.entry import guarded

    return guarded(_prepare, arguments)


def _prepare(arguments: Sequence[str]) -> None:
    from sparsepo_dist.commands.entry import say
    from sparsepo_dist.preparation.card import MARKDOWN
    from sparsepo_dist.preparation.command import prepare

    folder, was_there = prepare(arguments)
    if was_there:
        say(f"{folder} was prepared before with these settings; it is left as it is")
    else:
        say(f"{folder} is ready; {folder / MARKDOWN} says what is in it and what was left out")

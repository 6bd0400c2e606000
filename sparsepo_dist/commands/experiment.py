"""`sparsepo experiment`: every stage of an experiment, from its data to its figures."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    from sparsepo_dist.experiments.command import experiment, parser

    given = parser().parse_args(arguments)

    from sparsepo_dist.commands.entry import guarded, say

    return guarded(experiment, given, say)

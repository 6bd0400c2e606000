"""`sparsepo sample-pairs`: what `sparsepo prepare pairs` does, as a step of iterated preference optimisation."""

from __future__ import annotations

from collections.abc import Sequence

from sparsepo_dist.commands import prepare


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    return prepare.main(["pairs", *arguments])

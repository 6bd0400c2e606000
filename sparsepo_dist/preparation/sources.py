"""What a preparation reads, as its card names it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsepo_dist.data.reading.identity import source_files
from sparsepo_dist.disk import sha256
from sparsepo_dist.errors import UserError
from sparsepo_dist.preparation.card import Card


def source_record(source: str, option: str) -> dict[str, Any]:
    """A source of rows as it is named, and name, size and SHA-256 of each file that it is read from.

    Args:
        option: where the source was given, for messages.

    Raises:
        UserError: the source is not there, or cannot be read.
    """
    try:
        files = [
            {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)} for file in source_files(source)
        ]
    except OSError as error:
        raise UserError(f"{option} {source}: cannot be read: {error.strerror or error}") from None
    except UserError as error:
        raise UserError(f"{option} {error}") from None
    return {"source": source, "files": files}


def refuse_nothing(option: str, source: str, kept: Sequence[object], card: Card) -> None:
    """Raise UserError where nothing of a source is left: says what was left out of it, and why."""
    if not kept:
        steps = "; ".join(f"{step.said}, {step.after} of {step.before} {step.unit}" for step in card.steps)
        raise UserError(f"{option} {source}: nothing is left to prepare: {steps}")

"""Folders that `sparsepo prepare` wrote: a file for each split, and a card that says so."""

from __future__ import annotations

from pathlib import Path

from sparsepo_dist.errors import UserError, did_you_mean, shortened
from sparsepo_dist.files import read_json

CARD, NAME = "card.json", "prepared"
_SUFFIX = ".jsonl"


def is_prepared(folder: Path) -> bool:
    """Whether a folder's card says that it was prepared.

    Raises:
        UserError: the card cannot be read.
    """
    card = folder / CARD
    try:
        return card.is_file() and NAME in read_json(card)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{card} cannot be read: {shortened(str(error), 200)}") from None


def prepared_file(source: str, folder: Path, parts: tuple[str, ...]) -> Path:
    """The file of a split, `train` where none is named, of a prepared folder.

    Args:
        source: as it was written, for messages.
        parts: what stands behind the folder's colon.

    Raises:
        UserError: there is no such split; names those that are.
    """
    name = ":".join(parts) or "train"
    file = folder / f"{name}{_SUFFIX}"
    if len(parts) > 1 or not file.is_file():
        there = sorted(path.name.removesuffix(_SUFFIX) for path in folder.glob(f"*{_SUFFIX}"))
        raise UserError(
            f"{source}: prepared data without {shortened(name)}; it has {', '.join(there)}{did_you_mean(name, there)}"
        )
    return file

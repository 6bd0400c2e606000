"""A preparation's folder while it is written: parts that a killed one finds again, files that appear all at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from sparsepo_dist.disk import remove, unwritten, write_whole
from sparsepo_dist.errors import RunError
from sparsepo_dist.preparation.card import Card, WrittenFile

Item = TypeVar("Item")
_PARTS = "parts"
_PART = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True)
class Portion(Generic[Item]):
    """Some of many things, which are done together."""

    items: Sequence[Item]
    number: int
    """From 0."""
    count: int
    """Of portions."""

    @property
    def said(self) -> str:
        """For progress: `portion 3 of 20`."""
        return f"portion {self.number + 1} of {self.count}"

    def seed(self, *told: object) -> int:
        """A seed of this portion's own, made of what is told: the run's seed, and what is drawn."""
        return int.from_bytes(hashlib.sha256(repr((*told, self.number)).encode()).digest()[:4], "little")


class Work:
    """The unfinished folder of one preparation, which no other process writes.

    Args:
        folder: aside of where the finished one will be.
        card: notes the files.
    """

    def __init__(self, folder: Path, card: Card) -> None:
        self._parts, self.files, self._card = folder / _PARTS, folder / "files", card
        with writing(folder):
            remove(self.files)
            self.files.mkdir(parents=True)

    def part(self, name: str, make: Callable[[], Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """Rows that are made once: kept on disk, whole or not at all.

        Args:
            name: of lower-case letters, digits, - and _.

        Raises:
            RunError: they cannot be written.
        """
        assert _PART.fullmatch(name), name
        path = self._parts / f"{name}.jsonl"
        if not path.is_file():
            text = "".join(map(_line, make()))
            with writing(self.files):
                write_whole(path, text)
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def in_portions(
        self, name: str, items: Sequence[Item], size: int, make: Callable[[Portion[Item]], Iterable[Mapping[str, Any]]]
    ) -> Iterator[dict[str, Any]]:
        """Rows of many things, made and kept so many things at a time.

        Args:
            size: things of a portion.
            make: rows of a portion's things.
        """
        count = -(-len(items) // size)
        for number in range(count):
            portion = Portion(items[number * size : (number + 1) * size], number, count)
            yield from self.part(f"{name}-{number:05d}", partial(make, portion))

    def write(self, name: str, rows: Iterable[Mapping[str, Any]], said: str) -> int:
        """Write a file of the folder (`train.jsonl`), a row a line; how many rows.

        Args:
            said: what its rows are, for the card.

        Raises:
            RunError: it cannot be written.
        """
        digest, count = hashlib.sha256(), 0
        with writing(self.files), (self.files / name).open("xb") as file:
            for row in rows:
                count += 1
                line = _line(row).encode()
                digest.update(line)
                file.write(line)
        self._card.files.append(WrittenFile(name, said, count, digest.hexdigest()))
        return count


def has_parts(folder: Path) -> bool:
    """Whether an unfinished folder keeps something that would have to be made again."""
    return any((folder / _PARTS).glob("*.jsonl"))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises RunError where what is done in a folder raises OSError: it cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"what is prepared cannot be written: {unwritten(error, folder)}; a second start goes on from there"
        ) from None


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"

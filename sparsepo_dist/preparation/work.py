"""A preparation's folder while it is written: parts that a killed one finds again, files that appear all at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from sparsepo_dist.disk import remove, write_whole
from sparsepo_dist.preparation.card import Card, WrittenFile

Item = TypeVar("Item")
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
        self._parts, self.files, self._card = folder / "parts", folder / "files", card
        remove(self.files)
        self.files.mkdir(parents=True)

    def part(self, name: str, make: Callable[[], Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """Rows that are made once: kept on disk, whole or not at all.

        Args:
            name: of lower-case letters, digits, - and _.
        """
        assert _PART.fullmatch(name), name
        path = self._parts / f"{name}.jsonl"
        if not path.is_file():
            write_whole(path, "".join(map(_line, make())))
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
        """
        digest, count = hashlib.sha256(), 0
        with (self.files / name).open("xb") as file:
            for row in rows:
                count += 1
                line = _line(row).encode()
                digest.update(line)
                file.write(line)
        self._card.files.append(WrittenFile(name, said, count, digest.hexdigest()))
        return count


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"

"""A preparation's folder while it is written: parts that a killed one finds again, files that appear all at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sparsepo_dist.disk import remove
from sparsepo_dist.evaluation.results import write_whole
from sparsepo_dist.preparation.card import Card, WrittenFile

Item = TypeVar("Item")
_PART = re.compile(r"[a-z0-9_-]+")


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
        self,
        name: str,
        items: Sequence[Item],
        size: int,
        make: Callable[[Sequence[Item], str], Iterable[dict[str, Any]]],
    ) -> Iterator[dict[str, Any]]:
        """Rows of many things, made and kept so many things at a time.

        Args:
            size: things of a portion.
            make: rows of a portion's things; the text says which portion of how many it is, for progress.
        """
        count = -(-len(items) // size)
        for number in range(count):
            portion = items[number * size : (number + 1) * size]
            said = f"{number + 1} of {count}"
            yield from self.part(f"{name}-{number:05d}", partial(make, portion, said))

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

"""Folders and globs: files of one kind are one source, in the order of their names; what is no data is passed over. In
folders that `sparsepo prepare` wrote each split is a file."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from sparsepo_dist.data.reading.files import KINDS, kind_of, read_file
from sparsepo_dist.data.reading.row import Rows
from sparsepo_dist.errors import UserError, did_you_mean, shortened
from sparsepo_dist.files import at_home, read_json

log = logging.getLogger(__name__)

CARD, PREPARED = "card.json", "prepared"
"""What `sparsepo prepare` leaves beside its files, and the key in it that says so."""
PREPARATIONS = ("sentiment", "dialogue", "summaries", "code", "mix")
"""What it makes; recipes look for each in `data/NAME`."""
_SPLIT_SUFFIX = ".jsonl"
_ABOUT_DATA = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_TO_READ = ("readme", "license", "licence", "changelog", "citation", "notice")
_CHECKSUMS = (".md5", ".sha1", ".sha256", ".sha512", ".crc", "sums", "sums.txt")
_MOST_NAMED, _MOST_FILES = 5, 100_000


def is_pattern(source: str) -> bool:
    """Whether a text is a glob, and no path."""
    return glob.has_magic(source)


def matching(pattern: str) -> list[Path]:
    """What a glob (`~`, `*`, `?`, `[...]`, `**`) finds, in order."""
    return sorted(map(Path, glob.glob(at_home(pattern), recursive=True)))  # noqa: PTH207  (of any root)


def read_matching(pattern: str, found: Sequence[Path]) -> Rows:
    """Rows of the files that a glob has found.

    Raises:
        UserError: folders are among them, or files of several kinds, or of none that is read.
    """
    folders = [path for path in found if path.is_dir()]
    if folders:
        raise UserError(f"{pattern}: finds the folder {folders[0]}; name files, as in {pattern}/*.jsonl")
    return read_shards(data_files(pattern, found))


def read_shards(files: Iterable[Path]) -> Rows:
    """Rows of several files, one after the other."""
    return chain.from_iterable(map(read_file, files))


def data_files(source: str, found: Iterable[Path]) -> list[Path]:
    """The files that hold rows; a file that is passed over though its kind is read is named in the log.

    Raises:
        UserError: they are of several kinds, or of none that is read.
    """
    files: list[Path] = []
    left: list[Path] = []
    for path in found:
        (left if _passed_over(path.name) else files).append(path)
    mistakable = [path.name for path in left if kind_of(path.name) is not None]
    if mistakable:
        log.warning("%s: passed over, as no data: %s", source, shortened(", ".join(mistakable), 200))
    kinds: dict[str, Path] = {}
    for path in files:
        kinds.setdefault(kind_of(path.name) or path.suffix.lower(), path)
    named = ", ".join(f"{kind or 'no suffix'} ({path.name})" for kind, path in list(kinds.items())[:_MOST_NAMED])
    if len(kinds) > 1:
        raise UserError(
            f"{source}: holds files of several kinds: {shortened(named, 200)}; name those of one, as in "
            f"{_glob_of(source, files[0])}"
        )
    if not any(map(kind_of, kinds)):
        raise UserError(f"{source}: holds no file of a kind that is read ({KINDS}){f', only {named}' if kinds else ''}")
    return files


def files_within(folder: Path) -> list[Path]:
    """Every file in a folder and its folders, in order, without hidden ones; links are followed.

    Raises:
        UserError: they are too many to be a data set's.
    """
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            found.append(path)
        elif not folder.resolve().is_relative_to(path.resolve()):  # else a link that leads round in circles
            found += files_within(path)
        if len(found) > _MOST_FILES:
            raise UserError(f"{folder}: holds more than {_MOST_FILES} files; name the folder that holds the rows")
    return found


def is_prepared(folder: Path) -> bool:
    """Whether a folder's card says that it was prepared.

    Raises:
        UserError: the card cannot be read.
    """
    card = folder / CARD
    try:
        there = read_json(card) if card.is_file() else None
    except (OSError, ValueError) as error:
        raise UserError(f"{card} cannot be read: {shortened(str(error), 200)}") from None
    return isinstance(there, Mapping) and PREPARED in there


def refuse_unprepared(source: str, path: str) -> None:
    """Raise UserError where a path that is not there is one that recipes have for prepared data: says what makes it."""
    place = Path(path).parts
    if len(place) > 1 and place[0] == "data" and place[1] in PREPARATIONS:
        raise UserError(
            f"{source}: this data has to be made first: `sparsepo prepare {place[1]} --output data/{place[1]}` (its "
            f"--help says what it takes); or name your own (looked in {Path.cwd()})"
        )


def prepared_file(source: str, folder: Path, parts: tuple[str, ...]) -> Path:
    """The file of a split, `train` where none is named, of a prepared folder.

    Args:
        source: as it was written, for messages.
        parts: what stands behind the folder's colon.

    Raises:
        UserError: there is no such split; names those that are.
    """
    name = ":".join(parts) or "train"
    file = folder / f"{name}{_SPLIT_SUFFIX}"
    if len(parts) > 1 or not file.is_file():
        there = sorted(path.name.removesuffix(_SPLIT_SUFFIX) for path in folder.glob(f"*{_SPLIT_SUFFIX}"))
        raise UserError(
            f"{source}: prepared data without {shortened(name)}; it has {', '.join(there)}{did_you_mean(name, there)}"
        )
    return file


def _passed_over(name: str) -> bool:
    name = name.lower()
    if name.startswith(".") or name in _ABOUT_DATA:
        return True
    if kind_of(name) is not None:
        return False
    return name.startswith(("_", *_TO_READ)) or name.endswith(_CHECKSUMS) or "checksum" in name  # such as _SUCCESS


def _glob_of(source: str, file: Path) -> str:
    return f"{file.parent}/*{kind_of(file.name) or '.jsonl'}" if not is_pattern(source) else f"{source}.jsonl"

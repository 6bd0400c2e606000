"""Folders that hold a data set: saved by `datasets`, cloned from a hub, or files of one kind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sparsepo_dist.data.reading.arrow import of_table
from sparsepo_dist.data.reading.files import refuse_pointer
from sparsepo_dist.data.reading.folders import data_files, files_within, read_shards
from sparsepo_dist.data.reading.hub import check_part, read_dataset
from sparsepo_dist.data.reading.named import Named, cut_rows
from sparsepo_dist.data.reading.row import Rows, numbered
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import at_home, read_text

CARD, SETTINGS = "README.md", ".huggingface.yaml"


def read_folder(source: str, named: Named) -> Rows:
    """Rows of a folder. Looked at in this order: `datasets.save_to_disk` wrote it; it is a clone or snapshot of a hub's
    data set, by the `configs:` of its README or by the names of its splits; its files are all of one kind.

    Args:
        source: as it was written, for messages.
        named: `source`, read; its path is the folder.

    Raises:
        UserError: it is none of these, or has no such configuration or split.
    """
    folder = Path(at_home(named.path))
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return cut_rows(partial(_saved, source, folder, named.parts), named.cut, source)
    _refuse_code(folder)
    if (folder / "snapshots").is_dir() and (folder / "blobs").is_dir():
        known = ", ".join(str(path) for path in sorted((folder / "snapshots").iterdir()))
        raise UserError(f"{source}: a folder of the hub's cache; name the snapshot in it: {shortened(known, 300)}")
    there = files_within(folder)
    if not _has_configurations(source, folder):
        files = data_files(source, there)
        splits = _splits(source, folder, files)
        if not named.parts and splits == {"train"} and all(path.parent == folder for path in files):
            return cut_rows(partial(read_shards, files), named.cut, source)
    for file in there:
        refuse_pointer(file)
    return read_dataset(source, named._replace(path=str(folder.absolute())), _cache_of(there))


def _saved(source: str, folder: Path, parts: tuple[str, ...]) -> Rows:
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever the formats below raise
        raise UserError(f"{source}: a damaged datasets folder: {shortened(str(error), 200)}") from None
    if len(parts) > 1 or (parts and not isinstance(data, Mapping)):
        raise UserError(f"{source}: {folder} was saved by datasets.save_to_disk, and has no {':'.join(parts)}")
    if isinstance(data, Mapping):
        (split,) = parts or ("train",)
        check_part(source, "split", split, list(data))
        data = data[split]
    return numbered(source, map(of_table, data))


def _cache_of(files: Sequence[Path]) -> Path:
    """A place in `datasets`' cache for files as they are now: where a README has `configs:`, `datasets` takes others of
    the same names for these, and would give yesterday's rows."""
    import datasets

    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(repr((str(file.absolute()), status.st_size, status.st_mtime_ns)).encode())
    return Path(datasets.config.HF_DATASETS_CACHE) / f"folder-{digest.hexdigest()[:16]}"


def _refuse_code(folder: Path) -> None:
    script = folder / f"{folder.resolve().name}.py"
    if script.is_file():
        raise UserError(
            f"{folder}: {script.name} is a script that loads it, and scripts of data sets are not run; name its files, "
            "or convert it to Parquet"
        )


def _has_configurations(source: str, folder: Path) -> bool:
    """Whether the folder says itself which files are which split; what it names must lie here.

    Raises:
        UserError: that cannot be read, or names files elsewhere.
    """
    import yaml
    from huggingface_hub import DatasetCard

    said: dict[str, Any] = {}
    try:
        if (folder / CARD).is_file() and (text := read_text(folder / CARD, str(folder / CARD))).startswith("---"):
            said |= DatasetCard(text).data.to_dict()
        if (folder / SETTINGS).is_file():
            said |= yaml.safe_load(read_text(folder / SETTINGS, str(folder / SETTINGS))) or {}
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{source}: the YAML of its {CARD} cannot be read: {shortened(str(error), 200)}") from None
    configurations = said.get("configs")
    remote = [text for text in _texts(configurations) if "://" in text]
    if remote:
        raise UserError(
            f"{source}: its {CARD} names {shortened(remote[0])}, which is not in it; for a folder nothing is downloaded"
        )
    return bool(configurations)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _splits(source: str, folder: Path, files: list[Path]) -> set[str]:
    """The splits that `datasets` takes files for, by their names.

    Raises:
        UserError: it would leave some of them out.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    base = str(folder.absolute())
    found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
    taken = {path for paths in found.values() for path in paths}
    left = [path for path in files if str(path.absolute()) not in taken]
    if left:
        raise UserError(
            f"{source}: by their names, files of it are the splits {', '.join(map(str, found))}, and "
            f"{left[0].relative_to(folder)} is of none; name files by a glob, or move it elsewhere"
        )
    return set(map(str, found))

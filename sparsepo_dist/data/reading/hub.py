"""Data sets of a hub, or of a clone's folder: configurations, splits and slices, by `datasets` itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsepo_dist.data.reading.arrow import of_table
from sparsepo_dist.data.reading.named import Named
from sparsepo_dist.data.reading.row import Rows, numbered
from sparsepo_dist.errors import UserError, did_you_mean, shortened

_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def is_id(text: str) -> bool:
    """Whether a hub could have a data set of that name: NAME or OWNER/NAME."""
    return _ID.fullmatch(text) is not None


def read_dataset(source: str, named: Named, cache: Path | None = None) -> Rows:
    """Rows of a split, `train` where none is named, of a configuration, which must be named where there are several and
    none is the default. One name alone is a configuration where there is one of that name, else a split.

    Args:
        source: as it was written, for messages.
        named: `source`, read; its path is a hub id or an absolute folder.
        cache: where `datasets` keeps what it prepares, if not in its usual place.

    Raises:
        UserError: there is no such data set, configuration or split, with those that there are.
    """
    return numbered(source, map(of_table, _prepared(source, named, cache)))


def prepared_files(source: str, named: Named) -> list[Path]:
    """The files that `datasets` keeps of a hub's data set: others where the hub has another version.

    Raises:
        UserError: as `read_dataset`.
    """
    return [Path(file["filename"]) for file in _prepared(source, named, None).cache_files]


def _prepared(source: str, named: Named, cache: Path | None) -> Any:
    import datasets

    try:
        configuration, split = _chosen(source, named)
        _check_split(source, named, configuration, split)
        return datasets.load_dataset(
            named.path, configuration, split=split + named.cut, cache_dir=None if cache is None else str(cache)
        )
    except UserError:
        raise
    except Exception as error:  # whatever the hub, the formats and the cache raise
        raise UserError(_explained(source, named, error)) from None


def check_part(source: str, kind: str, name: str, there: Sequence[str]) -> None:
    """Raise UserError where there is no configuration or split (`kind`) of a name."""
    if name not in there:
        raise UserError(
            f"{source}: there is no {kind} {shortened(name)}; there {'is' if len(there) == 1 else 'are'} "
            f"{shortened(', '.join(there), 300)}{did_you_mean(name, there)}"
        )


def _chosen(source: str, named: Named) -> tuple[str | None, str]:
    """Configuration, None for the default, and split, without the slice at the end."""
    import datasets

    parts = named.parts
    if len(parts) > 2:
        raise UserError(f"{source}: write NAME:CONFIGURATION:SPLIT")
    if len(parts) == 2:
        return parts[0], parts[1]
    if parts and parts[0] in datasets.get_dataset_config_names(named.path):
        return parts[0], "train"
    return None, parts[0] if parts else "train"


def _check_split(source: str, named: Named, configuration: str | None, split: str) -> None:
    """Look for configuration and split before anything of them is read; a split may be `train+test[:10%]` too."""
    import datasets

    try:
        there = datasets.get_dataset_split_names(named.path, configuration)
    except ValueError:
        configurations = datasets.get_dataset_config_names(named.path)
        if configuration is not None:
            check_part(source, "configuration", configuration, configurations)
        elif len(configurations) > 1:
            names = ", ".join(f"{named.path}:{name}" for name in configurations)
            raise UserError(
                f"{source}: has several configurations{f', none called {shortened(split)}' if named.parts else ''}; "
                f"name one: {shortened(names, 400)}"
            ) from None
        raise
    for name in split.split("+"):
        check_part(source, "split", name.partition("[")[0].strip(), there)


def _explained(source: str, named: Named, error: Exception) -> str:
    cause = error.__cause__ or error
    why = f"{type(cause).__name__}: {shortened(str(cause), 200)}"
    if Path(named.path).is_absolute():
        return f"{source}: a damaged data set, or one that `datasets` does not read: {why}"
    return f"{source}: neither a file or folder here (looked in {Path.cwd()}), nor could it be loaded from a hub: {why}"

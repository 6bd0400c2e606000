"""Small data sets of the project's own writing, in the schemas of the public sets that they stand for."""

from __future__ import annotations

from pathlib import Path

from sparsepo_dist.errors import UserError, did_you_mean

_FOLDER = Path(__file__).with_name("shipped")
_BUILTIN, _SUFFIX = "builtin:", ".jsonl"


def set_file(source: str) -> str:
    """The file of `builtin:NAME`, with configuration and split behind it as a hub has them; other sources as they are.

    Raises:
        UserError: there is no such set, or it has no such part.
    """
    if not source.startswith(_BUILTIN):
        return source
    parts = source.removeprefix(_BUILTIN).split(":")
    for name in (parts, [*parts, "train"]):
        file = _FOLDER / f"{'-'.join(name)}{_SUFFIX}"
        if file.is_file():
            return str(file)
    there = sorted(_BUILTIN + path.name.removesuffix(_SUFFIX).replace("-", ":") for path in _FOLDER.glob(f"*{_SUFFIX}"))
    raise UserError(f"{source}: there is no such set; there are {', '.join(there)}{did_you_mean(source, there)}")

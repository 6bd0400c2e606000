"""What a frozen reference said of pairs, on disk: written once, read memory-mapped, every read checked.

    FOLDER/cache.json          the key, what is stored, sizes of all files; it comes last: without it there is no cache
    FOLDER/pairs.safetensors   per pair: its key, where its rows are, their checksums
    FOLDER/shard-RRRRR-KKKKK.safetensors   rows of the response tokens, those of a pair one after the other
    FOLDER/head.safetensors    the reference's LM head and what it does to its logits, where a divergence needs them

Rows of a field are [rows, ...]; a pair's are those of its chosen response, then those of its rejected one. Fields are
those of ReferenceOutputs; layer_hidden is [rows, L, D] here.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsepo_dist.contracts import ORACLE_LOGPS
from sparsepo_dist.disk import follow_umask
from sparsepo_dist.errors import RankError, UserError, shortened
from sparsepo_dist.files import read_json
from sparsepo_dist.ops import Head, LogitMap

MANIFEST, PAIRS, HEAD = "cache.json", "pairs.safetensors", "head.safetensors"
FORMAT = 2
MAKE_ANEW = "Make it anew with `sparsepo cache` and this run's options"
SHARD_BYTES = 256 * 2**20


class CachedReadings(NamedTuple):
    """What a masker must know of the reference that was cached."""

    layers: int
    """L of the whole model."""
    width: int
    """D."""
    site_types: list[str]


class Form(NamedTuple):
    """What rows of a field are, besides their bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    """Without the first dimension."""


class CacheWriter:
    """One rank's shards.

    Args:
        folder: where all ranks write.
        part: this rank's number.
    """

    def __init__(self, folder: Path, part: int) -> None:
        self._folder, self._part, self._shards = folder, part, 0
        self._rows: dict[str, list[Tensor]] = {}
        self._bytes = self._start = 0
        self._pairs: list[list[int]] = []
        self._checksums: list[list[int]] = []

    def add(self, key: int, rows: Mapping[str, Tensor]) -> None:
        """Rows of one pair: field to [rows, ...] on the CPU, in the order of the key's fields."""
        count = len(next(iter(rows.values())))
        self._pairs.append([key, self._part, self._shards, self._start, count])
        self._checksums.append([checksum(values) for values in rows.values()])
        for name, values in rows.items():
            self._rows.setdefault(name, []).append(values)
            self._bytes += values.nbytes
        self._start += count
        if self._bytes >= SHARD_BYTES:
            self._write_shard()

    def close(self) -> None:
        """Write what is left, and this part's list of pairs."""
        if self._rows:
            self._write_shard()
        fields = len(self._checksums[0]) if self._checksums else 0
        pairs = torch.tensor(self._pairs, dtype=torch.int64).view(-1, 5)
        sums = torch.tensor(self._checksums, dtype=torch.int64).view(-1, fields)
        save_file({"pairs": pairs, "checksums": sums}, self._folder / _part_name(self._part))

    def _write_shard(self) -> None:
        tensors = {name: torch.cat(parts) for name, parts in self._rows.items()}
        save_file(tensors, self._folder / _shard_name(self._part, self._shards))
        self._rows, self._bytes, self._start = {}, 0, 0
        self._shards += 1


def finish_cache(folder: Path, parts: int, key: Mapping[str, Any], readings: CachedReadings) -> None:
    """Join the parts of all ranks; with this the folder is a cache. One process calls it."""
    loaded = [load_file(folder / _part_name(part)) for part in range(parts)]
    filled = [part for part in loaded if len(part["pairs"])]
    pairs, sums = (torch.cat([part[name] for part in filled]) for name in ("pairs", "checksums"))
    order = pairs[:, 0].argsort(stable=True)
    save_file({"pairs": pairs[order].contiguous(), "checksums": sums[order].contiguous()}, folder / PAIRS)
    for part in range(parts):
        (folder / _part_name(part)).unlink()
    files = {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
    manifest = {"format": FORMAT, "key": dict(key), "readings": readings._asdict(), "files": files}
    follow_umask(folder / name for name in files)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


class ReferenceCache:
    """A finished cache, open for reading.

    Raises:
        UserError: the folder holds none, or files are missing or of another size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / MANIFEST).is_file():
            raise UserError(f"reference.cache: {folder} holds no finished cache (no {MANIFEST} is there). {MAKE_ANEW}")
        try:
            manifest = read_json(folder / MANIFEST)
            known = manifest["format"]
            if known != FORMAT:
                raise UserError(
                    f"reference.cache: {folder} has format {shortened(str(known))}, this version reads {FORMAT}. "
                    f"{MAKE_ANEW}"
                )
            self.key: dict[str, Any] = manifest["key"]
            self.readings = CachedReadings(**manifest["readings"])
            for name, kind in (("files", dict), ("fields", list), ("masks", dict)):
                if not isinstance(self.key[name], kind):
                    raise TypeError(f"{MANIFEST} has no {name}")
            self.fields: list[str] = self.key["fields"]
            self._check_files(manifest["files"])
            self._forms = _forms(self.key["dtype"], self.readings)
            index = load_file(folder / PAIRS)
            _check_index(index["pairs"], index["checksums"], [self._forms[name] for name in self.fields])
            self._keys, self._places = index["pairs"][:, 0].contiguous(), index["pairs"][:, 1:].tolist()
            self._checksums = index["checksums"].tolist()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, SafetensorError) as error:
            raise UserError(f"reference.cache: {folder} is damaged ({error}). {MAKE_ANEW}") from None
        self._open: dict[str, Any] = {}

    def __len__(self) -> int:
        """Number of different pairs."""
        return len(self._places)

    @property
    def has_head(self) -> bool:
        """Whether the reference's head is stored too."""
        return (self.folder / HEAD).is_file()

    def head(self) -> Head:
        """The reference's LM head, [V, D], on the CPU.

        Raises:
            UserError: its file cannot be read, or has changed.
        """
        try:
            tensors = load_file(self.folder / HEAD)
            found = Head(tensors["weight"], tensors.get("bias"), LogitMap(*tensors["map"].tolist()))
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"reference.cache: {self.folder / HEAD} cannot be read: {error}") from None
        sums = [checksum(part) for part in head_tensors(found).values()]
        form = Form(found.weight.dtype, tuple(found.weight.shape[1:]))
        if sums != self.key.get("head") or form != self._forms["final_hidden"]:
            raise UserError(f"reference.cache: {self.folder / HEAD} has changed since it was written. {MAKE_ANEW}")
        return found

    def missing(self, keys: Sequence[int] | npt.NDArray[np.int64]) -> list[int]:
        """Positions of the keys that the cache does not have."""
        return [at for at, place in enumerate(self._find(torch.as_tensor(keys, dtype=torch.int64))) if place is None]

    def rows(self, keys: Tensor, counts: Sequence[int]) -> dict[str, Tensor]:
        """Rows of some pairs [P], one after the other: field to [N, ...], N being the sum of `counts`.

        Raises:
            RankError: a pair is not there, or what is read is not what was written.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in self.fields}
        for place, count in zip(self._find(keys), counts, strict=True):
            if place is None:
                raise RankError(f"reference.cache: {self.folder} lacks a pair of this run. {MAKE_ANEW}")
            part, shard, start, stored = self._places[place]
            if stored != count:
                raise RankError(
                    f"reference.cache: {self.folder} has {stored} rows of a pair of {count} tokens. {MAKE_ANEW}"
                )
            for name, expected in zip(self.fields, self._checksums[place], strict=True):
                values = self._read(_shard_name(part, shard), name, start, count)
                form = Form(values.dtype, tuple(values.shape[1:]))
                if form != self._forms[name] or checksum(values) != expected:
                    raise RankError(
                        f"reference.cache: {self.folder / _shard_name(part, shard)} has changed since it was written "
                        f"({name}, rows {start} to {start + count}). {MAKE_ANEW}"
                    )
                found[name].append(values)
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _find(self, keys: Tensor) -> list[int | None]:
        places = torch.searchsorted(self._keys, keys.cpu()).clamp(max=len(self._keys) - 1)
        there = self._keys[places] == keys.cpu()
        return [place if ok else None for place, ok in zip(places.tolist(), there.tolist(), strict=True)]

    def _read(self, shard: str, name: str, start: int, count: int) -> Tensor:
        try:
            if shard not in self._open:
                self._open[shard] = safe_open(self.folder / shard, framework="pt")
            values: Tensor = self._open[shard].get_slice(name)[start : start + count]
        except (OSError, SafetensorError) as error:
            raise RankError(f"reference.cache: {self.folder / shard} cannot be read: {error}") from None
        return values

    def _check_files(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            path = self.folder / name
            if Path(name).name != name or not path.is_file():
                raise ValueError(f"{name} is missing")
            if path.stat().st_size != size:
                raise ValueError(f"{name} has {path.stat().st_size} bytes instead of {size}")


def _forms(dtype: str, readings: CachedReadings) -> dict[str, Form]:
    """Of each field. Raises ValueError or TypeError for what a manifest cannot say."""
    layers, width = readings.layers, readings.width
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in kinds or type(layers) is not int or type(width) is not int:
        raise ValueError(f"there are no rows of {dtype}, {layers} layers and width {width}")
    number = Form(torch.float32, ())
    rows, all_rows = Form(kinds[dtype], (width,)), Form(kinds[dtype], (layers, width))
    numbers = dict.fromkeys(("logps", "mask", *ORACLE_LOGPS.values()), number)
    return {"final_hidden": rows, "layer_hidden": all_rows, **numbers}


def _check_index(pairs: Tensor, checksums: Tensor, fields: Sequence[Form]) -> None:
    """Raise ValueError unless there are pairs [P, 5] in the order of their keys, and checksums [P, fields]."""
    count = len(pairs)
    shapes = pairs.shape == (count, 5) and checksums.shape == (count, len(fields))
    if not count or not shapes or pairs.dtype != torch.int64 or checksums.dtype != torch.int64:
        raise ValueError(f"{PAIRS} does not hold what is stored of each pair")
    if (pairs[1:, 0] <= pairs[:-1, 0]).any() or (pairs[:, 1:] < 0).any():
        raise ValueError(f"{PAIRS} is not in order")


def head_tensors(head: Head) -> dict[str, Tensor]:
    """What is stored of a head, in the order of its checksums: scale and cap of its map are float64 [2]."""
    tensors = {"weight": head.weight, "bias": head.bias, "map": torch.tensor(head.map, dtype=torch.float64)}
    return {name: part.cpu().contiguous() for name, part in tensors.items() if part is not None}


def checksum(values: Tensor) -> int:
    """CRC-32 of the bytes of a tensor of any shape on the CPU."""
    data: Any = values.contiguous().view(-1).view(torch.uint8).numpy()
    return zlib.crc32(data)


def _shard_name(part: int, number: int) -> str:
    return f"shard-{part:05d}-{number:05d}.safetensors"


def _part_name(part: int) -> str:
    return f"pairs-{part:05d}.safetensors"

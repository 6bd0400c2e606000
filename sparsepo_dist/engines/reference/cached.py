"""The reference as a cache on disk: what it needs to say, of what it was made, and how it stands in for an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from sparsepo_dist.contracts import ORACLE_LOGPS, PackedBatch, ReferenceOutputs
from sparsepo_dist.disk import sha256
from sparsepo_dist.engines.config import Models, named
from sparsepo_dist.engines.reference.cache_files import MAKE_ANEW, CachedReadings, ReferenceCache
from sparsepo_dist.engines.reference.engine import ReferenceEngine
from sparsepo_dist.engines.sequence.rows import OwnRows
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig, MaskSources, oracles_of
from sparsepo_dist.objectives import Requirements
from sparsepo_dist.ops import Head

_WEIGHTS = ("*.safetensors", "*.bin", "config.json", "adapter_config.json")


def stored_fields(needs: Requirements, sources: MaskSources, masks: MaskConfig) -> list[str]:
    """What of ReferenceOutputs an objective with such masks reads."""
    fields = []
    if needs.divergence is not None or ("learned" in sources and masks.layers == "last"):
        fields.append("final_hidden")
    if "learned" in sources and masks.layers == "all":
        fields.append("layer_hidden")
    if needs.divergence is None:
        fields.append("logps")
    if "activation" in sources:
        fields.append("mask")
    return [*fields, *(ORACLE_LOGPS[role] for role in oracles_of(sources))]


def reads_head(fields: Sequence[str]) -> bool:
    """Whether the reference's head is used: for a divergence, which leaves log-probabilities to the run."""
    return "final_hidden" in fields and "logps" not in fields


def stored_parts(needs: Requirements, sources: MaskSources, masks: MaskConfig) -> dict[str, Any]:
    """What an objective with such masks has stored, and the options that decide it."""
    reading = {name: getattr(masks, name) for name in _ACTIVATION_OPTIONS} if "activation" in sources else {}
    return {"fields": stored_fields(needs, sources, masks), "masks": reading}


def cache_key(
    models: Models, dtype: torch.dtype, needs: Requirements, sources: MaskSources, masks: MaskConfig,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a cache depends on besides its pairs: weights, number format, what is stored, how masks were made, what
    oracles are told.

    Tokenizer, data and truncation are in the pairs' own keys, which are made of their token ids.

    Args:
        known: the key of a cache: files of the size and time written there are taken to be the same.

    Raises:
        UserError: a hub's files cannot be found.
    """
    adapter = models.reference.adapter_path
    files: dict[str, dict[str, Path]] = {
        "model": _files(models.reference.path or models.model.path),
        "adapter": _files(adapter) if adapter is not None else {},
        **{role: _files(oracle.path, f"{role}.path") for role, oracle in models.oracles.items() if oracle.path},
    }
    return {
        "files": {
            part: {name: _entry(file, _at(known, part, name)) for name, file in found.items()}
            for part, found in files.items()
        },
        "dtype": str(dtype).removeprefix("torch."),
        **stored_parts(needs, sources, masks),
        "prompts": {role: oracle.prompt for role, oracle in models.oracles.items()},
    }


_ACTIVATION_OPTIONS = ("sites", "site_types", "site_patterns", "normalisation", "clip")


def check_key(cache: ReferenceCache, wanted: Mapping[str, Any]) -> None:
    """Raise UserError if a cache is not of what is configured; every difference is named."""
    wrong = []
    for part, ours in wanted["files"].items():
        theirs = cache.key["files"].get(part, {})
        changed = [n for n in sorted(theirs.keys() | ours.keys()) if _digest(theirs.get(n)) != _digest(ours.get(n))]
        if changed:
            whose = f"reference's {part}" if part in ("model", "adapter") else named(part)
            wrong.append(f"the {whose} is another ({', '.join(changed)})")
    for role, prompt in wanted["prompts"].items():
        there = cache.key.get("prompts", {}).get(role)
        if there != prompt:
            wrong.append(f"{role}.prompt there: {there!r}, here: {prompt!r}")
    for name in ("dtype", "masks"):
        if cache.key[name] != wanted[name]:
            wrong.append(f"{name} there: {cache.key[name]}, here: {wanted[name]}")
    lacking = [name for name in wanted["fields"] if name not in cache.fields]
    if lacking:
        wrong.append(f"it lacks {', '.join(lacking)}")
    if reads_head(wanted["fields"]) and not cache.has_head:
        wrong.append("it lacks the reference's head")
    if wrong:
        raise UserError(f"reference.cache: {cache.folder} does not fit: {'; '.join(wrong)}. {MAKE_ANEW}")


class CachedReference:
    """Answers as a ReferenceEngine does, from a cache."""

    gathers = False

    def __init__(
        self, cache: ReferenceCache, *, head_leaves: bool, mask_reads_last: bool, device: torch.device
    ) -> None:
        self._cache, self._head_leaves, self._mask_reads_last = cache, head_leaves, mask_reads_last
        self._device = device

    @property
    def readings(self) -> CachedReadings:
        """What masks must know of the reference."""
        return self._cache.readings

    def take_head(self) -> Head | None:
        """The reference's head, for an objective with a divergence. Raises UserError where it cannot be read."""
        if not self._head_leaves:
            return None
        head = self._cache.head()
        bias = None if head.bias is None else head.bias.to(self._device)
        return head._replace(weight=head.weight.to(self._device), bias=bias)

    def score(self, batch: PackedBatch) -> ReferenceOutputs:
        """What the reference said of a batch. Raises RankError for a pair that is not there, or not as written."""
        rows = self._cache.rows(batch.pair_key, batch.tokens_of_pairs)
        if "layer_hidden" in rows:  # stored by token
            rows["layer_hidden"] = rows["layer_hidden"].transpose(0, 1).contiguous()
        placed = {name: values.to(self._device, non_blocking=True) for name, values in rows.items()}
        if self._mask_reads_last:
            placed["layer_hidden"] = placed["final_hidden"].unsqueeze(0)
        return OwnRows.of(batch).pick_outputs(ReferenceOutputs(**placed))


Reference = ReferenceEngine | CachedReference
"""A frozen reference, wherever what it says comes from."""


def _files(path: str, field: str = "reference.path") -> dict[str, Path]:
    folder = Path(path)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(path, allow_patterns=list(_WEIGHTS)))
        except (OSError, ValueError, LocalEntryNotFoundError, HfHubHTTPError) as error:
            raise UserError(f"{field} {path}: its files cannot be found: {error}") from None
    return {file.name: file for pattern in _WEIGHTS for file in sorted(folder.glob(pattern))}


def _entry(file: Path, known: Mapping[str, Any] | None) -> dict[str, Any]:
    state = file.stat()
    entry = {"bytes": state.st_size, "modified": state.st_mtime_ns}
    if known is not None and all(known.get(name) == value for name, value in entry.items()):
        return dict(known)
    return {**entry, "sha256": sha256(file)}


def _digest(entry: Mapping[str, Any] | None) -> str | None:
    return None if entry is None else entry["sha256"]


def _at(known: Mapping[str, Any] | None, part: str, name: str) -> Mapping[str, Any] | None:
    return None if known is None else known["files"].get(part, {}).get(name)
